//! What OpenMLS stores outside its group: private keys, nothing else.
//!
//! OpenMLS would write the whole state of a group with each message, milliseconds in a large one
//! (spec 05 section 11). It reads that back only to load a group from a disk, and ours live as long
//! as their session: those writes do nothing.

use std::cell::RefCell;
use std::collections::HashMap;

use openmls::prelude::SecretVLBytes;
use openmls_traits::storage::{traits, StorageProvider, CURRENT_VERSION};
use serde_json::Error;

/// The private keys of one member of one group. Copies are wiped when dropped.
#[derive(Clone, Default)]
pub(super) struct Storage {
    values: RefCell<HashMap<Slot, SecretVLBytes>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Slot {
    /// A key package and its private keys, until a welcome uses them.
    KeyPackage(Vec<u8>),
    /// A key pair of a leaf that is not in the tree yet.
    KeyPair(Vec<u8>),
    /// Our key pairs in the tree of one epoch.
    EpochKeyPairs { group: Vec<u8>, epoch: Vec<u8>, leaf: u32 },
}

impl Storage {
    fn put(&self, slot: Slot, value: &(impl serde::Serialize + ?Sized)) -> Result<(), Error> {
        let value = serde_json::to_vec(value)?;
        self.values.borrow_mut().insert(slot, value.into());
        Ok(())
    }

    fn get<T: serde::de::DeserializeOwned>(&self, slot: &Slot) -> Result<Option<T>, Error> {
        let values = self.values.borrow();
        values.get(slot).map(|value| serde_json::from_slice(value.as_slice())).transpose()
    }

    fn delete(&self, slot: &Slot) -> Result<(), Error> {
        self.values.borrow_mut().remove(slot);
        Ok(())
    }

    /// How many values there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.values.borrow().len()
    }
}

fn text(key: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(key)
}

/// Writes and deletes that do nothing, and reads that find nothing.
macro_rules! not_stored {
    ($($name:ident<$($generic:ident),+>($($argument:ty),*) -> $result:ty;)+) => {$(
        fn $name<$($generic: traits::$generic<CURRENT_VERSION>),+>(
            &self,
            $(_: $argument),*
        ) -> Result<$result, Error> {
            Ok(<$result>::default())
        }
    )+};
}

impl StorageProvider<CURRENT_VERSION> for Storage {
    type Error = Error;

    fn write_key_package<
        HashReference: traits::HashReference<CURRENT_VERSION>,
        KeyPackage: traits::KeyPackage<CURRENT_VERSION>,
    >(
        &self,
        reference: &HashReference,
        key_package: &KeyPackage,
    ) -> Result<(), Error> {
        self.put(Slot::KeyPackage(text(reference)?), key_package)
    }

    fn key_package<
        HashReference: traits::HashReference<CURRENT_VERSION>,
        KeyPackage: traits::KeyPackage<CURRENT_VERSION>,
    >(
        &self,
        reference: &HashReference,
    ) -> Result<Option<KeyPackage>, Error> {
        self.get(&Slot::KeyPackage(text(reference)?))
    }

    fn delete_key_package<HashReference: traits::HashReference<CURRENT_VERSION>>(
        &self,
        reference: &HashReference,
    ) -> Result<(), Error> {
        self.delete(&Slot::KeyPackage(text(reference)?))
    }

    fn write_encryption_key_pair<
        EncryptionKey: traits::EncryptionKey<CURRENT_VERSION>,
        HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        public_key: &EncryptionKey,
        key_pair: &HpkeKeyPair,
    ) -> Result<(), Error> {
        self.put(Slot::KeyPair(text(public_key)?), key_pair)
    }

    fn encryption_key_pair<
        HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>,
        EncryptionKey: traits::EncryptionKey<CURRENT_VERSION>,
    >(
        &self,
        public_key: &EncryptionKey,
    ) -> Result<Option<HpkeKeyPair>, Error> {
        self.get(&Slot::KeyPair(text(public_key)?))
    }

    fn delete_encryption_key_pair<EncryptionKey: traits::EncryptionKey<CURRENT_VERSION>>(
        &self,
        public_key: &EncryptionKey,
    ) -> Result<(), Error> {
        self.delete(&Slot::KeyPair(text(public_key)?))
    }

    fn write_encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
        HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        group: &GroupId,
        epoch: &EpochKey,
        leaf: u32,
        key_pairs: &[HpkeKeyPair],
    ) -> Result<(), Error> {
        self.put(Slot::EpochKeyPairs { group: text(group)?, epoch: text(epoch)?, leaf }, key_pairs)
    }

    fn encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
        HpkeKeyPair: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        group: &GroupId,
        epoch: &EpochKey,
        leaf: u32,
    ) -> Result<Vec<HpkeKeyPair>, Error> {
        let slot = Slot::EpochKeyPairs { group: text(group)?, epoch: text(epoch)?, leaf };
        Ok(self.get(&slot)?.unwrap_or_default())
    }

    fn delete_encryption_epoch_key_pairs<
        GroupId: traits::GroupId<CURRENT_VERSION>,
        EpochKey: traits::EpochKey<CURRENT_VERSION>,
    >(
        &self,
        group: &GroupId,
        epoch: &EpochKey,
        leaf: u32,
    ) -> Result<(), Error> {
        self.delete(&Slot::EpochKeyPairs { group: text(group)?, epoch: text(epoch)?, leaf })
    }

    not_stored! {
        write_mls_join_config<GroupId, MlsGroupJoinConfig>(&GroupId, &MlsGroupJoinConfig) -> ();
        append_own_leaf_node<GroupId, LeafNode>(&GroupId, &LeafNode) -> ();
        queue_proposal<GroupId, ProposalRef, QueuedProposal>(
            &GroupId, &ProposalRef, &QueuedProposal
        ) -> ();
        write_tree<GroupId, TreeSync>(&GroupId, &TreeSync) -> ();
        write_interim_transcript_hash<GroupId, InterimTranscriptHash>(
            &GroupId, &InterimTranscriptHash
        ) -> ();
        write_context<GroupId, GroupContext>(&GroupId, &GroupContext) -> ();
        write_confirmation_tag<GroupId, ConfirmationTag>(&GroupId, &ConfirmationTag) -> ();
        write_group_state<GroupState, GroupId>(&GroupId, &GroupState) -> ();
        write_message_secrets<GroupId, MessageSecrets>(&GroupId, &MessageSecrets) -> ();
        write_resumption_psk_store<GroupId, ResumptionPskStore>(
            &GroupId, &ResumptionPskStore
        ) -> ();
        write_own_leaf_index<GroupId, LeafNodeIndex>(&GroupId, &LeafNodeIndex) -> ();
        write_group_epoch_secrets<GroupId, GroupEpochSecrets>(&GroupId, &GroupEpochSecrets) -> ();
        write_signature_key_pair<SignaturePublicKey, SignatureKeyPair>(
            &SignaturePublicKey, &SignatureKeyPair
        ) -> ();
        write_psk<PskId, PskBundle>(&PskId, &PskBundle) -> ();

        mls_group_join_config<GroupId, MlsGroupJoinConfig>(&GroupId) -> Option<MlsGroupJoinConfig>;
        own_leaf_nodes<GroupId, LeafNode>(&GroupId) -> Vec<LeafNode>;
        queued_proposal_refs<GroupId, ProposalRef>(&GroupId) -> Vec<ProposalRef>;
        queued_proposals<GroupId, ProposalRef, QueuedProposal>(
            &GroupId
        ) -> Vec<(ProposalRef, QueuedProposal)>;
        tree<GroupId, TreeSync>(&GroupId) -> Option<TreeSync>;
        group_context<GroupId, GroupContext>(&GroupId) -> Option<GroupContext>;
        interim_transcript_hash<GroupId, InterimTranscriptHash>(
            &GroupId
        ) -> Option<InterimTranscriptHash>;
        confirmation_tag<GroupId, ConfirmationTag>(&GroupId) -> Option<ConfirmationTag>;
        group_state<GroupState, GroupId>(&GroupId) -> Option<GroupState>;
        message_secrets<GroupId, MessageSecrets>(&GroupId) -> Option<MessageSecrets>;
        resumption_psk_store<GroupId, ResumptionPskStore>(&GroupId) -> Option<ResumptionPskStore>;
        own_leaf_index<GroupId, LeafNodeIndex>(&GroupId) -> Option<LeafNodeIndex>;
        group_epoch_secrets<GroupId, GroupEpochSecrets>(&GroupId) -> Option<GroupEpochSecrets>;
        signature_key_pair<SignaturePublicKey, SignatureKeyPair>(
            &SignaturePublicKey
        ) -> Option<SignatureKeyPair>;
        psk<PskBundle, PskId>(&PskId) -> Option<PskBundle>;

        remove_proposal<GroupId, ProposalRef>(&GroupId, &ProposalRef) -> ();
        delete_own_leaf_nodes<GroupId>(&GroupId) -> ();
        delete_group_config<GroupId>(&GroupId) -> ();
        delete_tree<GroupId>(&GroupId) -> ();
        delete_confirmation_tag<GroupId>(&GroupId) -> ();
        delete_group_state<GroupId>(&GroupId) -> ();
        delete_context<GroupId>(&GroupId) -> ();
        delete_interim_transcript_hash<GroupId>(&GroupId) -> ();
        delete_message_secrets<GroupId>(&GroupId) -> ();
        delete_all_resumption_psk_secrets<GroupId>(&GroupId) -> ();
        delete_own_leaf_index<GroupId>(&GroupId) -> ();
        delete_group_epoch_secrets<GroupId>(&GroupId) -> ();
        clear_proposal_queue<GroupId, ProposalRef>(&GroupId) -> ();
        delete_signature_key_pair<SignaturePublicKey>(&SignaturePublicKey) -> ();
        delete_psk<PskId>(&PskId) -> ();
    }
}
