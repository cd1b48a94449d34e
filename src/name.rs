//! Names: three strings and a 128-bit id, with their hashes (spec 02 section 1).
//!
//! A [`Name`] always has all of its parts, so every name that leaves this library is in the one
//! canonical shape: three hashes, an explicit id, three strings. Names from the network may lack
//! parts; they are read by [`EncodedName::from_wire`] (what routing needs) and [`Name::from_wire`].

use std::fmt;
use std::sync::Arc;

use twox_hash::{XxHash3_128, XxHash64};

use crate::limits;
use crate::wire;

/// The id of one instance of a name, or [`NameId::NULL`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameId(pub u128);

impl NameId {
    /// "No id": any instance.
    pub const NULL: NameId = NameId(u128::MAX);

    /// Ids from here on are reserved.
    const FIRST_RESERVED: u128 = u128::MAX - 50;

    /// Whether this is "no id".
    pub fn is_null(self) -> bool {
        self == NameId::NULL
    }

    /// Whether the id may not be given to anybody (spec 02 section 1.3).
    pub fn is_reserved(self) -> bool {
        self.0 >= NameId::FIRST_RESERVED
    }

    /// Reads `NULL_COMPONENT` or a UUID in any of its usual spellings.
    pub fn parse(text: &str) -> Result<NameId, NameError> {
        if text == "NULL_COMPONENT" {
            return Ok(NameId::NULL);
        }
        parse_uuid(text).map(NameId).ok_or_else(|| NameError::Id(text.to_owned()))
    }

    /// The id as a lower-case hyphenated UUID, also for [`NameId::NULL`].
    pub fn uuid_text(self) -> String {
        let hex = format!("{:032x}", self.0);
        let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
        format!("{a}-{b}-{c}-{}-{}", &hex[16..20], &hex[20..])
    }

    /// As the protobuf message.
    pub fn to_wire(self) -> wire::NameId {
        wire::NameId { id_0: (self.0 >> 64) as u64, id_1: self.0 as u64 }
    }

    /// From the protobuf message.
    pub fn from_wire(id: &wire::NameId) -> NameId {
        NameId(u128::from(id.id_0) << 64 | u128::from(id.id_1))
    }
}

impl fmt::Display for NameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() {
            f.write_str("NULL_COMPONENT")
        } else {
            f.write_str(&self.uuid_text())
        }
    }
}

impl fmt::Debug for NameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What nodes route on: the hashes of the three strings, and the id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EncodedName {
    /// Hashes of organisation, namespace and service.
    pub components: [u64; 3],
    /// The instance.
    pub id: NameId,
}

impl EncodedName {
    /// From the protobuf message; an absent id reads as "no id".
    pub fn from_wire(name: &wire::EncodedName) -> EncodedName {
        EncodedName {
            components: [name.component_0, name.component_1, name.component_2],
            id: name.name_id.as_ref().map_or(NameId::NULL, NameId::from_wire),
        }
    }
}

impl fmt::Display for EncodedName {
    /// `[hash, hash, hash, id]` with the hashes in hexadecimal (spec 02 section 5.5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.components;
        write!(f, "[{a:x}, {b:x}, {c:x}, {}]", self.id)
    }
}

impl fmt::Debug for EncodedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A complete name: `organisation/namespace/service`, its hashes, and the id of an instance or
/// [`NameId::NULL`]. Cheap to clone. Equal names route equally: their strings are not compared,
/// only the hashes of them.
#[derive(Clone)]
pub struct Name {
    encoded: EncodedName,
    strings: Arc<[String; 3]>,
}

impl Name {
    /// A name from its parts. Nothing is trimmed or checked; any Unicode goes.
    pub fn new(strings: [&str; 3], id: NameId) -> Name {
        let components = strings.map(component_hash);
        let strings = Arc::new(strings.map(str::to_owned));
        Name { encoded: EncodedName { components, id }, strings }
    }

    /// Reads `org/namespace/service` or `org/namespace/service/ID`. White space around the whole
    /// and around each part is dropped; a part must not be empty.
    pub fn parse(text: &str) -> Result<Name, NameError> {
        let parts: Vec<&str> = text.trim().split('/').map(str::trim).collect();
        let (strings, id) = match parts.as_slice() {
            [a, b, c] => ([*a, *b, *c], NameId::NULL),
            [a, b, c, id] => ([*a, *b, *c], NameId::parse(id)?),
            _ => return Err(NameError::Format(text.to_owned())),
        };
        if strings.iter().any(|part| part.is_empty()) {
            return Err(NameError::Format(text.to_owned()));
        }
        Ok(Name::new(strings, id))
    }

    /// The same three strings with another id.
    pub fn with_id(&self, id: NameId) -> Name {
        let encoded = EncodedName { id, ..self.encoded };
        Name { encoded, strings: Arc::clone(&self.strings) }
    }

    /// What nodes route on.
    pub fn encoded(&self) -> EncodedName {
        self.encoded
    }

    /// The hashes of the three strings.
    pub fn components(&self) -> [u64; 3] {
        self.encoded.components
    }

    /// The instance.
    pub fn id(&self) -> NameId {
        self.encoded.id
    }

    /// The three strings.
    pub fn strings(&self) -> &[String; 3] {
        &self.strings
    }

    /// `org/namespace/service` without the id.
    pub fn service(&self) -> String {
        self.strings.join("/")
    }

    /// As the protobuf message, in the canonical shape.
    pub fn to_wire(&self) -> wire::Name {
        let [a, b, c] = self.encoded.components;
        let [x, y, z] = &*self.strings;
        wire::Name {
            name: Some(wire::EncodedName {
                component_0: a,
                component_1: b,
                component_2: c,
                name_id: Some(self.encoded.id.to_wire()),
            }),
            str_name: Some(wire::StringName {
                str_component_0: x.clone(),
                str_component_1: y.clone(),
                str_component_2: z.clone(),
            }),
        }
    }

    /// From the protobuf message. Missing strings read as empty ones; `None` without the encoded
    /// part, or if they are longer than [`limits::NAME_LEN`]. The hashes are taken as received, they need not fit the strings.
    pub fn from_wire(name: &wire::Name) -> Option<Name> {
        let encoded = EncodedName::from_wire(name.name.as_ref()?);
        let len = |s: &wire::StringName| {
            s.str_component_0.len() + s.str_component_1.len() + s.str_component_2.len()
        };
        if name.str_name.as_ref().map_or(0, len) > limits::NAME_LEN {
            return None;
        }
        let strings = name.str_name.as_ref().map_or_else(Default::default, |s| {
            [s.str_component_0.clone(), s.str_component_1.clone(), s.str_component_2.clone()]
        });
        Some(Name { encoded, strings: Arc::new(strings) })
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Name {}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.encoded.hash(state);
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        self.encoded.cmp(&other.encoded)
    }
}

impl fmt::Display for Name {
    /// `org/namespace/service/ID`, or without the last part when there is no id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = &*self.strings;
        if a.is_empty() && b.is_empty() && c.is_empty() {
            let [x, y, z] = self.encoded.components;
            write!(f, "{x}/{y}/{z}")?;
        } else {
            write!(f, "{a}/{b}/{c}")?;
        }
        if self.encoded.id.is_null() {
            return Ok(());
        }
        write!(f, "/{}", self.encoded.id)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name or id that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Not `org/namespace/service` with three parts that are not empty.
    Format(String),
    /// The fourth part is neither `NULL_COMPONENT` nor a UUID.
    Id(String),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Format(text) => write!(
                f,
                "invalid name format: {text} (expected \"organization/namespace/service\", \
                 got {text:?})"
            ),
            NameError::Id(text) => write!(f, "invalid name id format: {text}"),
        }
    }
}

impl std::error::Error for NameError {}

/// XXH64 of the UTF-8 bytes followed by one byte `0xFF` (spec 02 section 1.2).
pub fn component_hash(text: &str) -> u64 {
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0xff);
    XxHash64::oneshot(0, &bytes)
}

/// The id of the app whose identity string is `subject` (spec 02 section 1.5).
pub fn app_id(subject: &str) -> NameId {
    fold_app_id(XxHash3_128::oneshot(subject.as_bytes()))
}

/// The ids of the data and the control channel that the moderator with identity string `subject`
/// makes for the group `channel` (spec 02 section 1.6).
pub fn channel_ids(subject: &str, channel: &Name) -> (NameId, NameId) {
    let base = format!("{subject}/{}", channel.service());
    let id = |salt, suffix| {
        fold_channel_id(XxHash3_128::oneshot_with_seed(salt, format!("{base}/{suffix}").as_bytes()))
    };
    let mut salt = 0;
    loop {
        let (data, control) = (id(salt, "data"), id(salt, "control"));
        if data != control || salt == 10 {
            return (data, control);
        }
        salt += 1;
    }
}

fn fold_app_id(hash: u128) -> NameId {
    if NameId(hash).is_reserved() {
        NameId(hash % NameId::FIRST_RESERVED)
    } else {
        NameId(hash)
    }
}

fn fold_channel_id(hash: u128) -> NameId {
    if NameId(hash).is_reserved() {
        NameId(hash % (NameId::FIRST_RESERVED - 1) + 1)
    } else {
        NameId(hash)
    }
}

/// A UUID: hyphenated, 32 digits, in braces, or with `urn:uuid:` before it; any case.
fn parse_uuid(text: &str) -> Option<u128> {
    let text = text
        .strip_prefix("urn:uuid:")
        .or_else(|| text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')))
        .unwrap_or(text);
    let hyphens: &[usize] = match text.len() {
        32 => &[],
        36 => &[8, 13, 18, 23],
        _ => return None,
    };
    let mut value = 0u128;
    for (at, c) in text.bytes().enumerate() {
        if hyphens.contains(&at) {
            if c != b'-' {
                return None;
            }
            continue;
        }
        value = value << 4 | u128::from(char::from(c).to_digit(16)?);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_id_reads_back() {
        let name = Name::new(["org", "ns", "alice"], app_id("alice"));
        assert_eq!(name.to_string(), "org/ns/alice/48bb949a-3dd2-6afa-c9a1-342ad0e35dd2");
        assert_eq!(Name::parse(&name.to_string()), Ok(name.clone()));
        assert_eq!(Name::from_wire(&name.to_wire()), Some(name));
    }

    #[test]
    fn bad_names_are_named_in_the_error() {
        for text in ["", "a/b", "a//c", "a/b/c/d/e", " / / "] {
            let error = Name::parse(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        let error = Name::parse("a/b/c/nonsense").unwrap_err().to_string();
        assert_eq!(error, "invalid name id format: nonsense");
    }

    #[test]
    fn reserved_ids_are_folded_as_recorded() {
        let vectors = include_str!("../tests/vectors/routing/ids.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        for entry in vectors["reserved_folding"].as_array().unwrap() {
            let id = |key: &str| u128::from_str_radix(entry[key].as_str().unwrap(), 16).unwrap();
            assert_eq!(fold_app_id(id("raw_hash_hex")).0, id("app_id_hex"), "{entry}");
            assert_eq!(fold_channel_id(id("raw_hash_hex")).0, id("channel_id_hex"), "{entry}");
        }
    }

    #[test]
    fn name_without_strings_prints_its_hashes() {
        let mut wire = Name::new(["a", "b", "c"], NameId::NULL).to_wire();
        wire.str_name = None;
        let name = Name::from_wire(&wire).unwrap();
        assert_eq!(
            name.to_string(),
            format!("{}/{}/{}", component_hash("a"), component_hash("b"), component_hash("c"))
        );
    }
}
