//! Field tables and arrays, with the type tags that RabbitMQ and its clients use (which differ from the
//! printed specification: <https://www.rabbitmq.com/amqp-0-9-1-errata.html#section_3>).

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::reader::{FieldError, Reader};
use super::short_string::{ShortStr, ShortString};
use super::writer::Writer;

/// How deep tables and arrays may be nested. Clients in the field stay below ten.
pub const TABLE_DEPTH_MAX: usize = 64;

/// How many values a table, with all that is nested in it, may have. An octet of the wire can become a value
/// of 40 octets in memory; this bounds what one frame can claim.
pub const TABLE_VALUES_MAX: usize = 65_536;

/// A field table. Keeps the order of its fields, and fields of the same name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldTable {
    fields: Vec<(ShortString, FieldValue)>,
}

impl FieldTable {
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes the inside of a table (what follows its length). Strings become slices of `octets`.
    ///
    /// # Errors
    /// The octets are not a table, or it exceeds a limit.
    pub fn decode(octets: &Bytes) -> Result<Self, FieldError> {
        Self::read(Reader::new(octets, octets))
    }

    /// The inside of the table, without its length.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.write(&mut Writer::new(&mut out));
        out.freeze()
    }

    /// The first field of this name, which is the one that RabbitMQ looks at.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&FieldValue> {
        let name = name.as_ref();
        self.fields.iter().find(|(field, _)| field.as_bytes() == name).map(|(_, value)| value)
    }

    pub fn contains(&self, name: impl AsRef<[u8]>) -> bool {
        self.get(name).is_some()
    }

    /// Appends a field, whether or not there is one of that name.
    pub fn push(&mut self, name: ShortString, value: impl Into<FieldValue>) {
        self.fields.push((name, value.into()));
    }

    /// Replaces the first field of that name in its place, or appends.
    pub fn insert(&mut self, name: ShortString, value: impl Into<FieldValue>) {
        match self.fields.iter_mut().find(|(field, _)| *field == name) {
            Some((_, old)) => *old = value.into(),
            None => self.push(name, value),
        }
    }

    /// Removes all fields of that name; true when there were any.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> bool {
        let (name, before) = (name.as_ref(), self.fields.len());
        self.fields.retain(|(field, _)| field.as_bytes() != name);
        self.fields.len() != before
    }

    pub fn iter(&self) -> std::slice::Iter<'_, (ShortString, FieldValue)> {
        self.fields.iter()
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(super) fn read(reader: Reader<'_>) -> Result<Self, FieldError> {
        let mut values_left = TABLE_VALUES_MAX;
        read_table(reader, 1, &mut values_left)
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        for (name, value) in &self.fields {
            writer.short_string(name.as_short_str());
            value.write(writer);
        }
    }
}

impl FromIterator<(ShortString, FieldValue)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (ShortString, FieldValue)>>(fields: I) -> Self {
        Self { fields: fields.into_iter().collect() }
    }
}

impl IntoIterator for FieldTable {
    type Item = (ShortString, FieldValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.into_iter()
    }
}

impl<'a> IntoIterator for &'a FieldTable {
    type Item = &'a (ShortString, FieldValue);
    type IntoIter = std::slice::Iter<'a, (ShortString, FieldValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.iter()
    }
}

/// A value of a field table or array; one variant per type tag, so that the tag survives.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldValue {
    /// `t`
    Boolean(bool),
    /// `b`
    ShortShortInt(i8),
    /// `B`
    ShortShortUint(u8),
    /// `s`; a short string in the printed specification.
    ShortInt(i16),
    /// `u`
    ShortUint(u16),
    /// `I`
    LongInt(i32),
    /// `i`
    LongUint(u32),
    /// `l`
    LongLongInt(i64),
    /// `L`; unsigned in the printed specification, but RabbitMQ and its clients read and write it signed.
    LongLongIntUpper(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`
    Decimal(DecimalValue),
    /// `S`; octets, usually UTF-8.
    LongString(Bytes),
    /// `A`
    Array(Vec<FieldValue>),
    /// `T`; seconds since 1970-01-01T00:00:00Z.
    Timestamp(u64),
    /// `F`
    Table(FieldTable),
    /// `V`
    Void,
    /// `x`
    ByteArray(Bytes),
}

/// `value` divided by ten to the power of `scale`. RabbitMQ reads the value unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecimalValue {
    pub scale: u8,
    pub value: u32,
}

impl FieldValue {
    /// The octet that announces this type on the wire.
    pub fn type_tag(&self) -> u8 {
        match self {
            Self::Boolean(_) => b't',
            Self::ShortShortInt(_) => b'b',
            Self::ShortShortUint(_) => b'B',
            Self::ShortInt(_) => b's',
            Self::ShortUint(_) => b'u',
            Self::LongInt(_) => b'I',
            Self::LongUint(_) => b'i',
            Self::LongLongInt(_) => b'l',
            Self::LongLongIntUpper(_) => b'L',
            Self::Float(_) => b'f',
            Self::Double(_) => b'd',
            Self::Decimal(_) => b'D',
            Self::LongString(_) => b'S',
            Self::Array(_) => b'A',
            Self::Timestamp(_) => b'T',
            Self::Table(_) => b'F',
            Self::Void => b'V',
            Self::ByteArray(_) => b'x',
        }
    }

    /// What RabbitMQ calls this type in its error texts.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "bool",
            Self::ShortShortInt(_) => "byte",
            Self::ShortShortUint(_) => "unsignedbyte",
            Self::ShortInt(_) => "short",
            Self::ShortUint(_) => "unsignedshort",
            Self::LongInt(_) => "signedint",
            Self::LongUint(_) => "unsignedint",
            Self::LongLongInt(_) | Self::LongLongIntUpper(_) => "long",
            Self::Float(_) => "float",
            Self::Double(_) => "double",
            Self::Decimal(_) => "decimal",
            Self::LongString(_) => "longstr",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
            Self::ByteArray(_) => "binary",
        }
    }

    /// Any of the integer types (not a timestamp).
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::ShortShortInt(value) => Some(value.into()),
            Self::ShortShortUint(value) => Some(value.into()),
            Self::ShortInt(value) => Some(value.into()),
            Self::ShortUint(value) => Some(value.into()),
            Self::LongInt(value) => Some(value.into()),
            Self::LongUint(value) => Some(value.into()),
            Self::LongLongInt(value) | Self::LongLongIntUpper(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// The octets of a long string or byte array.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::LongString(octets) | Self::ByteArray(octets) => Some(octets),
            _ => None,
        }
    }

    /// A long string that is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::LongString(octets) => std::str::from_utf8(octets).ok(),
            _ => None,
        }
    }

    pub fn as_table(&self) -> Option<&FieldTable> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[FieldValue]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u8(self.type_tag());
        match self {
            Self::Boolean(value) => writer.u8((*value).into()),
            Self::ShortShortInt(value) => writer.octets(&value.to_be_bytes()),
            Self::ShortShortUint(value) => writer.u8(*value),
            Self::ShortInt(value) => writer.octets(&value.to_be_bytes()),
            Self::ShortUint(value) => writer.u16(*value),
            Self::LongInt(value) => writer.octets(&value.to_be_bytes()),
            Self::LongUint(value) => writer.u32(*value),
            Self::LongLongInt(value) | Self::LongLongIntUpper(value) => writer.octets(&value.to_be_bytes()),
            Self::Float(value) => writer.octets(&value.to_be_bytes()),
            Self::Double(value) => writer.octets(&value.to_be_bytes()),
            Self::Decimal(DecimalValue { scale, value }) => {
                writer.u8(*scale);
                writer.u32(*value);
            }
            Self::LongString(octets) | Self::ByteArray(octets) => writer.long_string(octets),
            Self::Array(values) => writer.sized(|writer| values.iter().for_each(|value| value.write(writer))),
            Self::Timestamp(seconds) => writer.u64(*seconds),
            Self::Table(table) => writer.table(table),
            Self::Void => {}
        }
    }
}

/// As RabbitMQ prints a scalar in its error texts.
impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Float(value) => fmt::Debug::fmt(value, f),
            Self::Double(value) => fmt::Debug::fmt(value, f),
            Self::Decimal(DecimalValue { scale, value }) => write!(f, "{{{scale},{value}}}"),
            Self::LongString(octets) | Self::ByteArray(octets) => String::from_utf8_lossy(octets).fmt(f),
            Self::Array(values) => write!(f, "an array of {}", values.len()),
            Self::Timestamp(seconds) => seconds.fmt(f),
            Self::Table(table) => write!(f, "a table of {}", table.len()),
            Self::Void => f.write_str("undefined"),
            integer => integer.as_i64().unwrap_or_default().fmt(f),
        }
    }
}

impl From<bool> for FieldValue {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i32> for FieldValue {
    fn from(value: i32) -> Self {
        Self::LongInt(value)
    }
}

impl From<i64> for FieldValue {
    fn from(value: i64) -> Self {
        Self::LongLongInt(value)
    }
}

impl From<&'static str> for FieldValue {
    fn from(text: &'static str) -> Self {
        Self::LongString(Bytes::from_static(text.as_bytes()))
    }
}

impl From<String> for FieldValue {
    fn from(text: String) -> Self {
        Self::LongString(text.into())
    }
}

impl From<&ShortString> for FieldValue {
    fn from(string: &ShortString) -> Self {
        Self::LongString(string.clone().into_bytes())
    }
}

impl From<ShortStr<'_>> for FieldValue {
    fn from(string: ShortStr<'_>) -> Self {
        Self::LongString(Bytes::copy_from_slice(string.as_bytes()))
    }
}

impl From<FieldTable> for FieldValue {
    fn from(table: FieldTable) -> Self {
        Self::Table(table)
    }
}

impl From<Vec<FieldValue>> for FieldValue {
    fn from(values: Vec<FieldValue>) -> Self {
        Self::Array(values)
    }
}

/// Checks a table as [`FieldTable::decode`] does, but builds nothing; shows the names of its own fields.
pub(super) fn check(mut reader: Reader<'_>, field: &mut dyn FnMut(&[u8])) -> Result<(), FieldError> {
    let mut values_left = TABLE_VALUES_MAX;
    while !reader.is_empty() {
        let octets = reader.u8()?;
        field(reader.take(octets.into())?);
        check_value(&mut reader, 1, &mut values_left)?;
    }
    Ok(())
}

fn check_value(reader: &mut Reader<'_>, depth: usize, values_left: &mut usize) -> Result<(), FieldError> {
    *values_left = values_left.checked_sub(1).ok_or(FieldError::TooManyValues)?;
    let octets = match reader.u8()? {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'S' | b'x' => return reader.long_string_octets().map(|_| ()),
        tag @ (b'A' | b'F') => {
            let mut nested = reader.nested()?;
            if depth == TABLE_DEPTH_MAX {
                return Err(FieldError::TooDeep);
            }
            while !nested.is_empty() {
                if tag == b'F' {
                    let octets = nested.u8()?;
                    nested.take(octets.into())?;
                }
                check_value(&mut nested, depth + 1, values_left)?;
            }
            return Ok(());
        }
        tag => return Err(FieldError::UnknownTypeTag { tag }),
    };
    reader.take(octets).map(|_| ())
}

fn read_table(
    mut reader: Reader<'_>,
    depth: usize,
    values_left: &mut usize,
) -> Result<FieldTable, FieldError> {
    if depth > TABLE_DEPTH_MAX {
        return Err(FieldError::TooDeep);
    }
    let mut fields = Vec::new();
    while !reader.is_empty() {
        let name = reader.short_string()?;
        fields.push((name, read_value(&mut reader, depth, values_left)?));
    }
    Ok(FieldTable { fields })
}

fn read_array(
    mut reader: Reader<'_>,
    depth: usize,
    values_left: &mut usize,
) -> Result<FieldValue, FieldError> {
    if depth > TABLE_DEPTH_MAX {
        return Err(FieldError::TooDeep);
    }
    let mut values = Vec::new();
    while !reader.is_empty() {
        values.push(read_value(&mut reader, depth, values_left)?);
    }
    Ok(FieldValue::Array(values))
}

fn read_value(
    reader: &mut Reader<'_>,
    depth: usize,
    values_left: &mut usize,
) -> Result<FieldValue, FieldError> {
    *values_left = values_left.checked_sub(1).ok_or(FieldError::TooManyValues)?;
    Ok(match reader.u8()? {
        b't' => FieldValue::Boolean(reader.u8()? != 0),
        b'b' => FieldValue::ShortShortInt(reader.u8()?.cast_signed()),
        b'B' => FieldValue::ShortShortUint(reader.u8()?),
        b's' => FieldValue::ShortInt(reader.u16()?.cast_signed()),
        b'u' => FieldValue::ShortUint(reader.u16()?),
        b'I' => FieldValue::LongInt(reader.u32()?.cast_signed()),
        b'i' => FieldValue::LongUint(reader.u32()?),
        b'l' => FieldValue::LongLongInt(reader.u64()?.cast_signed()),
        b'L' => FieldValue::LongLongIntUpper(reader.u64()?.cast_signed()),
        b'f' => FieldValue::Float(f32::from_bits(reader.u32()?)),
        b'd' => FieldValue::Double(f64::from_bits(reader.u64()?)),
        b'D' => FieldValue::Decimal(DecimalValue { scale: reader.u8()?, value: reader.u32()? }),
        b'S' => FieldValue::LongString(reader.long_string()?),
        b'A' => read_array(reader.nested()?, depth + 1, values_left)?,
        b'T' => FieldValue::Timestamp(reader.u64()?),
        b'F' => FieldValue::Table(read_table(reader.nested()?, depth + 1, values_left)?),
        b'V' => FieldValue::Void,
        b'x' => FieldValue::ByteArray(reader.long_string()?),
        tag => return Err(FieldError::UnknownTypeTag { tag }),
    })
}
