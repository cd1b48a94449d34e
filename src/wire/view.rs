//! The header view: one pass over the bytes of a Publish, which finds what routing needs and leaves
//! the rest where it is (DESIGN section 3).
//!
//! Only the shape that every known sender writes is taken: each field at most once, in ascending
//! order, none that the schema does not know. Lengths, nesting and UTF-8 are checked to full
//! depth, since a receiver that cannot decode what is forwarded would close its link. Everything
//! else gives `None` and is decoded in full.

use std::ops::Range;

use super::canonical::{HeaderFields, NameFields};
use super::FrameError;
use crate::link::key::LinkKey;
use crate::name::{EncodedName, NameId};

/// Where the parts of a Publish are. The numbers are places in its bytes.
#[derive(Clone, Debug)]
pub(super) struct View {
    source: NameView,
    destination: NameView,
    identity: Span,
    fanout: u32,
    pub(super) ttl: u32,
    error: Option<bool>,
    mac: Option<Span>,
    /// The fields of the header that stand before the TTL: they go on as they are.
    before_ttl: Span,
    /// The signature's field, with its tag; empty without one.
    signature: Span,
    /// What follows the header in the Publish.
    after_header: Span,
    /// What follows the Publish.
    after_publish: Span,
}

#[derive(Clone, Debug)]
struct NameView {
    components: [u64; 3],
    id: Option<[u64; 2]>,
    strings: Option<[Span; 3]>,
}

/// A range of places. A message has less than 4 GiB.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(range: Range<usize>) -> Span {
        Span { start: range.start as u32, end: range.end as u32 }
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

impl View {
    /// Reads a message. `None`: it is no Publish, not in that shape, or lacks what every node
    /// demands (spec 02 section 2.2).
    pub(super) fn read(bytes: &[u8]) -> Option<View> {
        u32::try_from(bytes.len()).ok()?;
        let mut message = Fields::new(bytes, 0..bytes.len());
        let (3, Value::Bytes(publish)) = message.next()?? else { return None };
        let after_publish = Span::new(publish.end..bytes.len());
        while let Some(field) = message.next()? {
            let (4, Value::Bytes(entry)) = field else { return None };
            metadata_entry(bytes, entry)?;
            message.may_repeat();
        }
        let mut fields = Fields::new(bytes, publish);
        let (1, Value::Bytes(header)) = fields.next()?? else { return None };
        let after_header = Span::new(header.end..fields.end);
        let (2, Value::Bytes(session)) = fields.next()?? else { return None };
        numbers(bytes, session, 4)?;
        match fields.next()? {
            Some((3, Value::Bytes(content))) => self::content(bytes, content)?,
            Some(_) => return None,
            None => {}
        }
        if fields.next()?.is_some() {
            return None;
        }
        View::read_header(bytes, header, after_header, after_publish)
    }

    fn read_header(
        bytes: &[u8],
        header: Range<usize>,
        after_header: Span,
        after_publish: Span,
    ) -> Option<View> {
        let (mut source, mut destination) = (None, None);
        let (mut identity, mut fanout, mut ttl) = (Span::default(), 0, 0);
        let (mut error, mut mac, mut signature) = (None, None, Span::default());
        let mut before_ttl = header.start;
        let mut fields = Fields::new(bytes, header.clone());
        loop {
            let start = fields.at;
            match fields.next()? {
                None => break,
                Some((1, Value::Bytes(range))) => source = Some(NameView::read(bytes, range)?),
                Some((2, Value::Bytes(range))) => destination = Some(NameView::read(bytes, range)?),
                Some((3, Value::Bytes(range))) => identity = text(bytes, range)?,
                Some((4, Value::Number(number))) => fanout = u32::try_from(number).ok()?,
                Some((5, Value::Bytes(range))) => drop(text(bytes, range)?),
                Some((6, Value::Number(number))) => {
                    ttl = u32::try_from(number).ok()?;
                    continue;
                }
                // It is set anew.
                Some((9, Value::Number(_))) => continue,
                Some((10, Value::Number(number))) => {
                    error = Some(number != 0);
                    continue;
                }
                Some((11, Value::Bytes(range))) => {
                    mac = Some(Span::new(range));
                    continue;
                }
                Some((12, Value::Bytes(range))) => {
                    signature = Span::new(start..range.end);
                    continue;
                }
                // Fields 7 and 8 must not travel on.
                Some(_) => return None,
            }
            before_ttl = fields.at;
        }
        Some(View {
            source: source?,
            destination: destination?,
            identity,
            fanout,
            ttl,
            error,
            mac,
            before_ttl: Span::new(header.start..before_ttl),
            signature,
            after_header,
            after_publish,
        })
    }

    pub(super) fn destination(&self) -> EncodedName {
        let id = self
            .destination
            .id
            .map_or(NameId::NULL, |[id_0, id_1]| NameId::from_wire(&super::NameId { id_0, id_1 }));
        EncodedName { components: self.destination.components, id }
    }

    pub(super) fn fanout(&self) -> u32 {
        self.fanout
    }

    /// What the MAC covers, and the MAC.
    pub(super) fn header<'a>(&self, bytes: &'a [u8]) -> HeaderFields<'a> {
        HeaderFields {
            source: Some(self.source.fields(bytes)),
            destination: Some(self.destination.fields(bytes)),
            identity: self.identity.of(bytes),
            fanout: self.fanout,
            recv_from: None,
            forward_to: None,
            error: self.error,
            ttl: self.ttl,
            mac: self.mac.map(|mac| mac.of(bytes)),
        }
    }

    /// As [`Frame::encode`](super::Frame::encode).
    pub(super) fn encode(
        &self,
        bytes: &[u8],
        incoming: Option<u64>,
        key: Option<&LinkKey>,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        let mac = key.map(|key| key.mac(self.header(bytes)));
        let header = self.before_ttl.len()
            + if self.ttl == 0 { 0 } else { 1 + varint_len(self.ttl.into()) }
            + incoming.map_or(0, |number| 1 + varint_len(number))
            + self.error.map_or(0, |_| 2)
            + mac.map_or(0, |mac| 2 + mac.len())
            + self.signature.len();
        let publish = 1 + varint_len(header as u64) + header + self.after_header.len();
        let len = 1 + varint_len(publish as u64) + publish + self.after_publish.len();
        if len > limit {
            return Err(FrameError::TooLong { len, limit });
        }
        out.reserve(len);
        out.push(3 << 3 | 2);
        put_varint(publish as u64, out);
        out.push(1 << 3 | 2);
        put_varint(header as u64, out);
        out.extend_from_slice(self.before_ttl.of(bytes));
        if self.ttl != 0 {
            out.push(6 << 3);
            put_varint(self.ttl.into(), out);
        }
        if let Some(number) = incoming {
            out.push(9 << 3);
            put_varint(number, out);
        }
        if let Some(error) = self.error {
            out.extend_from_slice(&[10 << 3, u8::from(error)]);
        }
        if let Some(mac) = mac {
            out.extend_from_slice(&[11 << 3 | 2, mac.len() as u8]);
            out.extend_from_slice(&mac);
        }
        out.extend_from_slice(self.signature.of(bytes));
        out.extend_from_slice(self.after_header.of(bytes));
        out.extend_from_slice(self.after_publish.of(bytes));
        Ok(())
    }
}

impl NameView {
    fn read(bytes: &[u8], range: Range<usize>) -> Option<NameView> {
        let mut fields = Fields::new(bytes, range);
        let (1, Value::Bytes(encoded)) = fields.next()?? else { return None };
        let strings = match fields.next()? {
            Some((2, Value::Bytes(range))) => Some(texts(bytes, range)?),
            Some(_) => return None,
            None => None,
        };
        if fields.next()?.is_some() {
            return None;
        }
        let mut name = NameView { components: [0; 3], id: None, strings };
        let mut fields = Fields::new(bytes, encoded);
        while let Some(field) = fields.next()? {
            match field {
                (at @ 1..=3, Value::Number(hash)) => {
                    *name.components.get_mut(usize::from(at) - 1)? = hash;
                }
                (4, Value::Bytes(range)) => name.id = Some(pair(bytes, range)?),
                _ => return None,
            }
        }
        Some(name)
    }

    fn fields<'a>(&self, bytes: &'a [u8]) -> NameFields<'a> {
        NameFields {
            encoded: Some((self.components, self.id)),
            strings: self.strings.map(|strings| strings.map(|text| text.of(bytes))),
        }
    }
}

/// A payload; commands are decoded.
fn content(bytes: &[u8], range: Range<usize>) -> Option<()> {
    let mut fields = Fields::new(bytes, range);
    match fields.next()? {
        Some((1, Value::Bytes(payload))) => {
            let mut payload = Fields::new(bytes, payload);
            while let Some(field) = payload.next()? {
                match field {
                    (1, Value::Bytes(range)) => drop(text(bytes, range)?),
                    (2, Value::Bytes(_)) => {}
                    _ => return None,
                }
            }
        }
        Some(_) => return None,
        None => {}
    }
    fields.next()?.is_none().then_some(())
}

fn metadata_entry(bytes: &[u8], range: Range<usize>) -> Option<()> {
    let mut fields = Fields::new(bytes, range);
    while let Some(field) = fields.next()? {
        let (1 | 2, Value::Bytes(range)) = field else { return None };
        text(bytes, range)?;
    }
    Some(())
}

/// A message of numbers alone, up to field `last`.
fn numbers(bytes: &[u8], range: Range<usize>, last: u8) -> Option<()> {
    let mut fields = Fields::new(bytes, range);
    while let Some(field) = fields.next()? {
        match field {
            (field, Value::Number(_)) if field <= last => {}
            _ => return None,
        }
    }
    Some(())
}

fn pair(bytes: &[u8], range: Range<usize>) -> Option<[u64; 2]> {
    let mut pair = [0; 2];
    let mut fields = Fields::new(bytes, range);
    while let Some(field) = fields.next()? {
        let (at @ 1..=2, Value::Number(number)) = field else { return None };
        *pair.get_mut(usize::from(at) - 1)? = number;
    }
    Some(pair)
}

fn texts(bytes: &[u8], range: Range<usize>) -> Option<[Span; 3]> {
    let mut found = [Span::default(); 3];
    let mut fields = Fields::new(bytes, range);
    while let Some(field) = fields.next()? {
        let (at @ 1..=3, Value::Bytes(range)) = field else { return None };
        *found.get_mut(usize::from(at) - 1)? = text(bytes, range)?;
    }
    Some(found)
}

fn text(bytes: &[u8], range: Range<usize>) -> Option<Span> {
    std::str::from_utf8(bytes.get(range.clone())?).ok()?;
    Some(Span::new(range))
}

/// The fields of one message, which must stand in ascending order.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    last: u8,
}

enum Value {
    Number(u64),
    Bytes(Range<usize>),
}

impl<'a> Fields<'a> {
    /// Those of the message in `range`, which lies within `bytes`.
    fn new(bytes: &'a [u8], range: Range<usize>) -> Fields<'a> {
        Fields {
            bytes: bytes.get(..range.end).unwrap_or_default(),
            at: range.start,
            end: range.end,
            last: 0,
        }
    }

    /// The next field; within, `None` at the end. Outside, `None` for another shape.
    #[inline]
    #[allow(clippy::should_implement_trait)]
    fn next(&mut self) -> Option<Option<(u8, Value)>> {
        if self.at == self.end {
            return Some(None);
        }
        let tag = *self.bytes.get(self.at)?;
        let field = tag >> 3;
        // A tag of two bytes is a field that the schema does not have.
        if tag >= 0x80 || field <= self.last {
            return None;
        }
        self.last = field;
        self.at += 1;
        match tag & 7 {
            0 => Some(Some((field, Value::Number(self.varint()?)))),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                let start = self.at;
                let end = start.checked_add(len).filter(|end| *end <= self.end)?;
                self.at = end;
                Some(Some((field, Value::Bytes(start..end))))
            }
            _ => None,
        }
    }

    /// The field that was read last may come again.
    fn may_repeat(&mut self) {
        self.last -= 1;
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let rest = self.bytes.get(self.at..)?;
        // With enough bytes behind it, none is looked for in vain.
        let (number, len) = match rest.first_chunk::<10>() {
            Some(bytes) => varint(bytes)?,
            None => varint(rest)?,
        };
        self.at += len;
        Some(number)
    }
}

/// A number of up to ten bytes, and how many they were.
#[inline(always)]
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            // The tenth byte has room for one bit.
            return (at < 9 || *byte <= 1).then_some((number, at + 1));
        }
    }
    None
}

fn varint_len(number: u64) -> usize {
    prost::encoding::encoded_len_varint(number)
}

fn put_varint(number: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(number, out);
}
