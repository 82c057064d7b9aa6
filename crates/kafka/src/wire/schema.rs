//! How messages are described: one line for each field, with its versions in the notation of Kafka's own
//! message definitions, so that the two can be compared line by line.

use bytes::Bytes;
use bytestring::ByteString;

use super::reader::{DecodeError, Fault, Reader};
use super::writer::Writer;

/// A value with a form on the wire, which depends on the version of the message it is in.
pub trait Wire: Sized {
    /// Fewest bytes that a value takes in this version.
    fn min_size(version: i16, flexible: bool) -> usize;

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError>;

    fn encode(&self, writer: &mut Writer);

    /// Whether this is the null of an optional type.
    fn is_null(&self) -> bool {
        false
    }

    /// As [`Wire::encode`], with an empty value for null: for versions that have no null here.
    fn encode_non_null(&self, writer: &mut Writer) {
        self.encode(writer);
    }

    /// A random value for round-trip tests, in which only what `version` has is set.
    #[cfg(test)]
    fn sample(sampler: &mut super::sampler::Sampler, version: i16, nullable: bool) -> Self;
}

/// A value that has a null form; its `Option` is then a [`Wire`] value.
pub trait Nullable: Wire + Default {
    fn min_size_nullable(version: i16, flexible: bool) -> usize;

    fn decode_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError>;

    fn encode_nullable(value: Option<&Self>, writer: &mut Writer);
}

/// Sixteen bytes that name a topic (KIP-516).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// What stands where no id is known.
    pub const ZERO: Self = Self([0; 16]);

    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl std::fmt::Debug for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Defines message structures with their [`Wire`] form.
///
/// A field is `name: [versions] Type`, or `name: [versions] Type = default`. `versions` is `3+`, `0-7` or
/// `1`, and may be followed by `, null 2+` (the versions in which an `Option` may be null, all when not said)
/// or by `, tag 0` (a tagged field, which is written when it differs from its default). Outside of its
/// versions a field has its default and is not written.
macro_rules! schema {
    ($(
        $(#[$meta:meta])*
        $name:ident {
            $(
                $(#[$field_meta:meta])*
                $field:ident: $spec:tt $ty:ty $(= $default:expr)?,
            )*
        }
    )+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[doc = concat!("\n\nVersions ", stringify!($spec), ".")]
                pub $field: $ty,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::wire::schema::default_value!($($default)?),)* }
            }
        }

        impl $crate::wire::schema::Wire for $name {
            fn min_size(version: i16, flexible: bool) -> usize {
                let mut size = usize::from(flexible);
                $(
                    if $crate::wire::schema::tag_of!($spec) == None
                        && $crate::wire::schema::in_versions!(version, $spec)
                    {
                        size += <$ty as $crate::wire::schema::Wire>::min_size(version, flexible);
                    }
                )*
                size
            }

            fn decode(
                reader: &mut $crate::wire::reader::Reader,
            ) -> Result<Self, $crate::wire::reader::DecodeError> {
                let version = reader.version();
                let mut value = Self::default();
                $(
                    if $crate::wire::schema::tag_of!($spec) == None
                        && $crate::wire::schema::in_versions!(version, $spec)
                    {
                        value.$field = $crate::wire::schema::decode_field(
                            reader,
                            stringify!($field),
                            $crate::wire::schema::null_in!(version, $spec),
                        )?;
                    }
                )*
                if reader.flexible() {
                    reader.tagged_fields(|tag, reader| {
                        let _ = (tag, &reader);
                        $(
                            if $crate::wire::schema::tag_of!($spec) == Some(tag)
                                && $crate::wire::schema::in_versions!(version, $spec)
                            {
                                value.$field = $crate::wire::schema::decode_field(
                                    reader,
                                    stringify!($field),
                                    true,
                                )?;
                            }
                        )*
                        Ok(())
                    })?;
                }
                Ok(value)
            }

            fn encode(&self, writer: &mut $crate::wire::writer::Writer) {
                let version = writer.version();
                $(
                    if $crate::wire::schema::tag_of!($spec) == None
                        && $crate::wire::schema::in_versions!(version, $spec)
                    {
                        if $crate::wire::schema::null_in!(version, $spec) {
                            $crate::wire::schema::Wire::encode(&self.$field, writer);
                        } else {
                            $crate::wire::schema::Wire::encode_non_null(&self.$field, writer);
                        }
                    }
                )*
                if writer.flexible() {
                    #[allow(unused_mut)]
                    let mut tagged = 0;
                    $(
                        if $crate::wire::schema::tag_of!($spec) != None
                            && $crate::wire::schema::in_versions!(version, $spec)
                            && self.$field != Self::default().$field
                        {
                            tagged += 1;
                        }
                    )*
                    writer.uvarint(tagged);
                    $(
                        if let Some(tag) = $crate::wire::schema::tag_of!($spec)
                            && $crate::wire::schema::in_versions!(version, $spec)
                            && self.$field != Self::default().$field
                        {
                            writer.tagged_field(tag, |writer| {
                                $crate::wire::schema::Wire::encode(&self.$field, writer);
                            });
                        }
                    )*
                }
            }

            #[cfg(test)]
            fn sample(sampler: &mut $crate::wire::sampler::Sampler, version: i16, _nullable: bool) -> Self {
                let mut value = Self::default();
                $(
                    if $crate::wire::schema::in_versions!(version, $spec) {
                        let nullable = $crate::wire::schema::null_in!(version, $spec);
                        value.$field = $crate::wire::schema::Wire::sample(sampler, version, nullable);
                    }
                )*
                value
            }
        }

        impl $crate::wire::schema::Nullable for $name {
            fn min_size_nullable(_version: i16, _flexible: bool) -> usize {
                1
            }

            fn decode_nullable(
                reader: &mut $crate::wire::reader::Reader,
            ) -> Result<Option<Self>, $crate::wire::reader::DecodeError> {
                let [presence] = reader.fixed()?;
                if (presence as i8) < 0 {
                    return Ok(None);
                }
                <Self as $crate::wire::schema::Wire>::decode(reader).map(Some)
            }

            fn encode_nullable(value: Option<&Self>, writer: &mut $crate::wire::writer::Writer) {
                match value {
                    None => writer.put(&[0xff]),
                    Some(value) => {
                        writer.put(&[1]);
                        $crate::wire::schema::Wire::encode(value, writer);
                    }
                }
            }
        }
    )+};
}

macro_rules! default_value {
    () => {
        Default::default()
    };
    ($default:expr) => {
        $default
    };
}

/// Whether a version is within a field's versions.
macro_rules! in_versions {
    ($version:expr, [$first:literal + $(, $($rest:tt)*)?]) => {
        $version >= $first
    };
    ($version:expr, [$first:literal - $last:literal $(, $($rest:tt)*)?]) => {
        ($first..=$last).contains(&$version)
    };
    ($version:expr, [$only:literal $(, $($rest:tt)*)?]) => {
        $version == $only
    };
}

/// Whether a field may be null in a version.
macro_rules! null_in {
    ($version:expr, [$first:literal +, null $($null:tt)+]) => {
        $crate::wire::schema::in_versions!($version, [$($null)+])
    };
    ($version:expr, [$first:literal - $last:literal, null $($null:tt)+]) => {
        $crate::wire::schema::in_versions!($version, [$($null)+])
    };
    ($version:expr, $other:tt) => {
        true
    };
}

/// The tag of a tagged field.
macro_rules! tag_of {
    ([$first:literal +, tag $tag:literal]) => {
        Some::<u32>($tag)
    };
    ($other:tt) => {
        None::<u32>
    };
}

pub(super) use {default_value, in_versions, null_in, schema, tag_of};

/// Reads one field, and names it in the error.
pub(super) fn decode_field<T: Wire>(
    reader: &mut Reader,
    field: &'static str,
    nullable: bool,
) -> Result<T, DecodeError> {
    let value = T::decode(reader).map_err(|error| error.in_field(field))?;
    if value.is_null() && !nullable {
        return Err(DecodeError { fault: Fault::UnexpectedNull, field });
    }
    Ok(value)
}

macro_rules! wire_integers {
    ($($ty:ty),*) => {$(
        impl Wire for $ty {
            fn min_size(_version: i16, _flexible: bool) -> usize {
                size_of::<$ty>()
            }

            fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
                Ok(<$ty>::from_be_bytes(reader.fixed()?))
            }

            fn encode(&self, writer: &mut Writer) {
                writer.put(&self.to_be_bytes());
            }

            #[cfg(test)]
            fn sample(sampler: &mut super::sampler::Sampler, _version: i16, _nullable: bool) -> Self {
                sampler.next() as $ty
            }
        }
    )*};
}

wire_integers!(i8, i16, i32, i64);

impl Wire for bool {
    fn min_size(_version: i16, _flexible: bool) -> usize {
        1
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let [byte] = reader.fixed()?;
        Ok(byte != 0)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.put(&[u8::from(*self)]);
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sampler::Sampler, _version: i16, _nullable: bool) -> Self {
        sampler.below(2) == 1
    }
}

impl Wire for Uuid {
    fn min_size(_version: i16, _flexible: bool) -> usize {
        16
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.fixed().map(Self)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.put(&self.0);
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sampler::Sampler, _version: i16, _nullable: bool) -> Self {
        Self(std::array::from_fn(|_| sampler.next() as u8))
    }
}

/// The non-null form is the nullable one with null refused.
macro_rules! wire_by_nullable {
    () => {
        fn min_size(version: i16, flexible: bool) -> usize {
            <Self as Nullable>::min_size_nullable(version, flexible)
        }

        fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
            Self::decode_nullable(reader)?.ok_or_else(|| Fault::UnexpectedNull.into())
        }

        fn encode(&self, writer: &mut Writer) {
            Self::encode_nullable(Some(self), writer);
        }
    };
}

impl Wire for ByteString {
    wire_by_nullable!();

    #[cfg(test)]
    fn sample(sampler: &mut super::sampler::Sampler, _version: i16, _nullable: bool) -> Self {
        sampler.string()
    }
}

impl Nullable for ByteString {
    fn min_size_nullable(_version: i16, flexible: bool) -> usize {
        if flexible { 1 } else { 2 }
    }

    fn decode_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        reader.string_length()?.map(|length| reader.string(length)).transpose()
    }

    fn encode_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.string_length(value.map(|value| value.len()));
        writer.put(value.map_or(&[], |value| value.as_bytes()));
    }
}

impl Wire for Bytes {
    wire_by_nullable!();

    #[cfg(test)]
    fn sample(sampler: &mut super::sampler::Sampler, _version: i16, _nullable: bool) -> Self {
        sampler.bytes()
    }
}

impl Nullable for Bytes {
    fn min_size_nullable(_version: i16, flexible: bool) -> usize {
        if flexible { 1 } else { 4 }
    }

    fn decode_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        reader.long_length()?.map(|length| reader.slice(length)).transpose()
    }

    fn encode_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.long_length(value.map(|value| value.len()));
        writer.put(value.map_or(&[], |value| value));
    }
}

impl<T: Wire> Wire for Vec<T> {
    wire_by_nullable!();

    #[cfg(test)]
    fn sample(sampler: &mut super::sampler::Sampler, version: i16, _nullable: bool) -> Self {
        (0..sampler.below(4)).map(|_| T::sample(sampler, version, false)).collect()
    }
}

impl<T: Wire> Nullable for Vec<T> {
    fn min_size_nullable(_version: i16, flexible: bool) -> usize {
        if flexible { 1 } else { 4 }
    }

    fn decode_nullable(reader: &mut Reader) -> Result<Option<Self>, DecodeError> {
        let Some(count) = reader.long_length()? else { return Ok(None) };
        let min_element = T::min_size(reader.version(), reader.flexible());
        reader.claim_array(count, min_element, size_of::<T>())?;
        let mut elements = Self::with_capacity(count);
        for _ in 0..count {
            elements.push(T::decode(reader)?);
        }
        Ok(Some(elements))
    }

    fn encode_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.long_length(value.map(Vec::len));
        for element in value.into_iter().flatten() {
            element.encode(writer);
        }
    }
}

impl<T: Nullable> Wire for Option<T> {
    fn min_size(version: i16, flexible: bool) -> usize {
        T::min_size_nullable(version, flexible)
    }

    fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        T::decode_nullable(reader)
    }

    fn encode(&self, writer: &mut Writer) {
        T::encode_nullable(self.as_ref(), writer);
    }

    fn is_null(&self) -> bool {
        self.is_none()
    }

    fn encode_non_null(&self, writer: &mut Writer) {
        match self {
            Some(value) => value.encode(writer),
            None => T::default().encode(writer),
        }
    }

    #[cfg(test)]
    fn sample(sampler: &mut super::sampler::Sampler, version: i16, nullable: bool) -> Self {
        if nullable && sampler.below(3) == 0 { None } else { Some(T::sample(sampler, version, false)) }
    }
}
