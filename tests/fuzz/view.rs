//! The header view beside the decoder: what the view takes means the same to both.

use prost::Message as _;
use slim::link::key::LinkKey;
use slim::wire::{Frame, Message};

/// Whether the view takes `bytes`; panics where it does not agree with the decoder.
pub fn check(bytes: &[u8]) -> bool {
    let decoded = Message::decode(bytes);
    let mut view = match Frame::decode(bytes) {
        Ok(frame) if frame.is_view() => frame,
        Ok(_) => {
            decoded.expect("a frame that prost cannot decode");
            return false;
        }
        Err(_) => {
            assert!(decoded.is_err(), "a refused message that prost decodes");
            return false;
        }
    };
    let message = decoded.expect("the view takes what prost cannot decode");
    let canonical = message.encode_to_vec() == bytes;
    let mut slow = Frame::new(Box::new(message));
    let key = LinkKey::new([7; 32], "4c3b09ca-230e-4f46-9168-fdddf5e70447");
    assert_eq!(slow.validate(), Ok(()), "{bytes:?}");
    assert_eq!(view.kind(), slow.kind());
    assert_eq!(view.destination(), slow.destination());
    assert_eq!(view.fanout(), slow.fanout());
    assert_eq!(view.has_mac(), slow.has_mac());
    assert_eq!(view.verify(&key), slow.verify(&key));
    let delivered = |frame: &Frame<'_>| frame.clone().into_message().unwrap();
    assert_eq!(delivered(&view), delivered(&slow));
    assert_eq!(view.count_hop(), slow.count_hop());
    assert_eq!(delivered(&view), delivered(&slow));
    for (incoming, key) in [(Some(3 << 40), Some(&key)), (None, None), (Some(0), Some(&key))] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        view.encode(incoming, key, usize::MAX, &mut ours).unwrap();
        slow.encode(incoming, key, usize::MAX, &mut theirs).unwrap();
        if canonical {
            assert_eq!(ours, theirs, "{bytes:?}");
        }
        let ours_read = Message::decode(&ours[..]).expect("relayed what cannot be decoded");
        assert_eq!(ours_read, Message::decode(&theirs[..]).unwrap(), "{bytes:?}");
        // The next node takes the short way, too, and finds the MAC right.
        let next = Frame::decode(&ours).unwrap();
        assert!(next.is_view());
        if let Some(key) = key {
            assert_eq!(next.verify(key), Ok(()));
        }
        let before = [1, 2, 3];
        let mut short = before.to_vec();
        view.encode(incoming, key, ours.len(), &mut short).unwrap();
        short.truncate(3);
        view.encode(incoming, key, ours.len() - 1, &mut short).unwrap_err();
        assert_eq!(short, before, "nothing is appended when it is too long");
    }
    true
}
