//! The properties in a content header: kept as they came, read on demand.

use bytes::{Bytes, BytesMut};

use super::field_table::{self, FieldTable};
use super::reader::{FieldError, Reader};
use super::short_string::{ShortStr, ShortString};
use super::writer::Writer;

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;
/// More flags follow, which class basic does not need; and a fifteenth property, which it does not have.
const UNKNOWN: u16 = 0b11;

/// The property list of a content header, byte for byte as it came: flags, then the values that are present,
/// in the order of the fields of [`BasicProperties`].
///
/// Its outline was checked when it was parsed, so the accessors cannot fail; only the inside of the headers
/// table is first looked at by [`PropertyList::headers`] and [`PropertyList::decode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertyList {
    raw: Bytes,
    outline: Outline,
}

/// What was found out while a property list was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outline {
    flags: u16,
    delivery_mode: u8,
    priority: u8,
}

impl PropertyList {
    /// # Errors
    /// Unknown flags, or values that do not end where `raw` ends.
    pub fn parse(raw: Bytes) -> Result<Self, FieldError> {
        let outline = Outline::of(&raw)?;
        Ok(Self { raw, outline })
    }

    /// `outline` is that of `raw`.
    #[inline]
    pub(super) fn with_outline(raw: Bytes, outline: Outline) -> Self {
        Self { raw, outline }
    }

    /// The list as it came, for encoding and for storing.
    pub fn as_bytes(&self) -> &Bytes {
        &self.raw
    }

    /// A copy that does not keep the read buffer alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { raw: Bytes::copy_from_slice(&self.raw), outline: self.outline }
    }

    /// 1 for transient, 2 for persistent.
    pub fn delivery_mode(&self) -> Option<u8> {
        self.has(DELIVERY_MODE).then_some(self.outline.delivery_mode)
    }

    /// `delivery_mode` is 2. RabbitMQ takes everything else for transient.
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode() == Some(2)
    }

    pub fn priority(&self) -> Option<u8> {
        self.has(PRIORITY).then_some(self.outline.priority)
    }

    /// Time to live in milliseconds, as decimal digits; not checked.
    pub fn expiration(&self) -> Option<ShortStr<'_>> {
        self.short_string(EXPIRATION)
    }

    pub fn content_type(&self) -> Option<ShortStr<'_>> {
        self.short_string(CONTENT_TYPE)
    }

    pub fn content_encoding(&self) -> Option<ShortStr<'_>> {
        self.short_string(CONTENT_ENCODING)
    }

    pub fn correlation_id(&self) -> Option<ShortStr<'_>> {
        self.short_string(CORRELATION_ID)
    }

    pub fn reply_to(&self) -> Option<ShortStr<'_>> {
        self.short_string(REPLY_TO)
    }

    pub fn message_id(&self) -> Option<ShortStr<'_>> {
        self.short_string(MESSAGE_ID)
    }

    pub fn user_id(&self) -> Option<ShortStr<'_>> {
        self.short_string(USER_ID)
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn timestamp(&self) -> Option<u64> {
        self.find(TIMESTAMP)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub fn has_headers(&self) -> bool {
        self.has(HEADERS)
    }

    /// # Errors
    /// The headers are not a field table.
    pub fn headers(&self) -> Result<Option<FieldTable>, FieldError> {
        match self.find(HEADERS) {
            Some(octets) => FieldTable::read(Reader::new(&self.raw, octets)).map(Some),
            None => Ok(None),
        }
    }

    /// Checks the headers table without building it, and shows the names of its fields.
    ///
    /// # Errors
    /// The headers are not a field table.
    pub fn check_headers(&self, mut field: impl FnMut(&[u8])) -> Result<(), FieldError> {
        match self.find(HEADERS) {
            Some(octets) => field_table::check(Reader::new(&self.raw, octets), &mut field),
            None => Ok(()),
        }
    }

    /// # Errors
    /// The headers are not a field table.
    pub fn decode(&self) -> Result<BasicProperties, FieldError> {
        let mut reader = Reader::new(&self.raw, &self.raw);
        let flags = reader.u16()?;
        macro_rules! property {
            ($flag:ident, $read:ident) => {
                if flags & $flag != 0 { Some(reader.$read()?) } else { None }
            };
        }
        Ok(BasicProperties {
            content_type: property!(CONTENT_TYPE, short_string),
            content_encoding: property!(CONTENT_ENCODING, short_string),
            headers: property!(HEADERS, table),
            delivery_mode: property!(DELIVERY_MODE, u8),
            priority: property!(PRIORITY, u8),
            correlation_id: property!(CORRELATION_ID, short_string),
            reply_to: property!(REPLY_TO, short_string),
            expiration: property!(EXPIRATION, short_string),
            message_id: property!(MESSAGE_ID, short_string),
            timestamp: property!(TIMESTAMP, u64),
            r#type: property!(TYPE, short_string),
            user_id: property!(USER_ID, short_string),
            app_id: property!(APP_ID, short_string),
            cluster_id: property!(CLUSTER_ID, short_string),
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.outline.flags & flag != 0
    }

    fn short_string(&self, flag: u16) -> Option<ShortStr<'_>> {
        self.find(flag).map(ShortStr::from_wire)
    }

    /// The value's octets, without a length.
    fn find(&self, wanted: u16) -> Option<&[u8]> {
        if !self.has(wanted) {
            return None;
        }
        let mut rest = self.raw.get(2..)?;
        let mut left = self.outline.flags;
        while left != 0 {
            let flag = highest(left);
            left &= !flag;
            let value = take(flag, &mut rest)?;
            if flag == wanted {
                return Some(value);
            }
        }
        None
    }
}

impl Outline {
    #[inline]
    pub(super) fn of(list: &[u8]) -> Result<Self, FieldError> {
        let (&flags, mut rest) = list.split_first_chunk().ok_or(FieldError::Truncated)?;
        let flags = u16::from_be_bytes(flags);
        if flags & UNKNOWN != 0 {
            return Err(FieldError::UnknownPropertyFlags { flags });
        }
        let mut outline = Self { flags, ..Self::default() };
        let mut left = flags;
        while left != 0 {
            let flag = highest(left);
            left &= !flag;
            match (flag, take(flag, &mut rest).ok_or(FieldError::Truncated)?) {
                (DELIVERY_MODE, &[octet]) => outline.delivery_mode = octet,
                (PRIORITY, &[octet]) => outline.priority = octet,
                _ => {}
            }
        }
        match rest.len() {
            0 => Ok(outline),
            octets => Err(FieldError::TrailingOctets { octets }),
        }
    }
}

/// No properties.
impl Default for PropertyList {
    fn default() -> Self {
        Self { raw: Bytes::from_static(&[0, 0]), outline: Outline::default() }
    }
}

impl From<&BasicProperties> for PropertyList {
    fn from(properties: &BasicProperties) -> Self {
        let mut raw = BytesMut::new();
        let flags = properties.write(&mut Writer::new(&mut raw));
        let delivery_mode = properties.delivery_mode.unwrap_or_default();
        let outline = Outline { flags, delivery_mode, priority: properties.priority.unwrap_or_default() };
        Self { raw: raw.freeze(), outline }
    }
}

/// The properties of class basic, all optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BasicProperties {
    pub content_type: Option<ShortString>,
    pub content_encoding: Option<ShortString>,
    pub headers: Option<FieldTable>,
    /// 1 for transient, 2 for persistent.
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<ShortString>,
    pub reply_to: Option<ShortString>,
    /// Time to live in milliseconds, as decimal digits.
    pub expiration: Option<ShortString>,
    pub message_id: Option<ShortString>,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub timestamp: Option<u64>,
    pub r#type: Option<ShortString>,
    pub user_id: Option<ShortString>,
    pub app_id: Option<ShortString>,
    /// `reserved` in the printed specification.
    pub cluster_id: Option<ShortString>,
}

impl BasicProperties {
    fn flags(&self) -> u16 {
        [
            (CONTENT_TYPE, self.content_type.is_some()),
            (CONTENT_ENCODING, self.content_encoding.is_some()),
            (HEADERS, self.headers.is_some()),
            (DELIVERY_MODE, self.delivery_mode.is_some()),
            (PRIORITY, self.priority.is_some()),
            (CORRELATION_ID, self.correlation_id.is_some()),
            (REPLY_TO, self.reply_to.is_some()),
            (EXPIRATION, self.expiration.is_some()),
            (MESSAGE_ID, self.message_id.is_some()),
            (TIMESTAMP, self.timestamp.is_some()),
            (TYPE, self.r#type.is_some()),
            (USER_ID, self.user_id.is_some()),
            (APP_ID, self.app_id.is_some()),
            (CLUSTER_ID, self.cluster_id.is_some()),
        ]
        .into_iter()
        .filter(|(_, present)| *present)
        .fold(0, |flags, (flag, _)| flags | flag)
    }

    /// Returns the flags.
    fn write(&self, writer: &mut Writer<'_>) -> u16 {
        fn short(writer: &mut Writer<'_>, string: &Option<ShortString>) {
            if let Some(string) = string {
                writer.short_string(string.as_short_str());
            }
        }
        let flags = self.flags();
        writer.u16(flags);
        short(writer, &self.content_type);
        short(writer, &self.content_encoding);
        if let Some(headers) = &self.headers {
            writer.table(headers);
        }
        for octet in [self.delivery_mode, self.priority].into_iter().flatten() {
            writer.u8(octet);
        }
        short(writer, &self.correlation_id);
        short(writer, &self.reply_to);
        short(writer, &self.expiration);
        short(writer, &self.message_id);
        if let Some(timestamp) = self.timestamp {
            writer.u64(timestamp);
        }
        short(writer, &self.r#type);
        short(writer, &self.user_id);
        short(writer, &self.app_id);
        short(writer, &self.cluster_id);
        flags
    }
}

/// The flag of the value that comes first.
fn highest(flags: u16) -> u16 {
    1 << flags.checked_ilog2().unwrap_or_default()
}

/// Takes the value of one property, without its length; none if it is not all there.
#[inline]
fn take<'a>(flag: u16, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let octets = match flag {
        DELIVERY_MODE | PRIORITY => 1,
        TIMESTAMP => 8,
        HEADERS => {
            let (&length, after) = rest.split_first_chunk()?;
            *rest = after;
            usize::try_from(u32::from_be_bytes(length)).ok()?
        }
        _ => {
            let (&length, after) = rest.split_first()?;
            *rest = after;
            length.into()
        }
    };
    let (value, after) = rest.split_at_checked(octets)?;
    *rest = after;
    Some(value)
}
