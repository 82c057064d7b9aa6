//! Arguments of queues and exchanges: checked, compared, and kept in the catalog in a readable form.

use crate::wire::{Exception, FieldTable, FieldValue, ReplyCode, Resource, ShortString};
use bytes::Bytes;
use posthaste_engine::catalog::{DeadLetter, Options, Overflow, QueueConfig};
use posthaste_model::{Name, Subject};
use std::fmt;

/// RabbitMQ's default for quorum queues since 4.0.
const QUORUM_DELIVERY_LIMIT: u32 = 20;

/// Queue arguments that a second declaration has to repeat. Others are kept, but not compared.
const COMPARED: [&str; 12] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
    "x-queue-type",
    "x-single-active-consumer",
];

/// What besides its arguments decides about a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared {
    pub durable: bool,
    pub exclusive: bool,
    pub server_named: bool,
}

pub(crate) fn is_quorum(config: &QueueConfig) -> bool {
    config.options.get("x-queue-type").is_some_and(|text| text == "S:quorum")
}

/// # Errors
/// PRECONDITION_FAILED for an argument of the wrong type or range, or one that is not supported.
pub(crate) fn queue_config(
    arguments: &FieldTable,
    declared: Declared,
    queue: Resource<'_>,
) -> Result<QueueConfig, Exception> {
    let read = Reading { arguments, queue };
    let quorum = match read.text("x-queue-type")? {
        None | Some("classic") => false,
        Some("quorum") => true,
        Some(other) => {
            return Err(read.invalid("x-queue-type", format_args!("\"unsupported queue type '{other}'\"")));
        }
    };
    if quorum {
        let lacking = [
            (!declared.durable, "non-durable"),
            (declared.exclusive, "exclusive-owner"),
            (declared.server_named, "server-named"),
        ];
        if let Some((_, property)) = lacking.iter().find(|(wrong, _)| *wrong) {
            let text = format!("invalid property '{property}' for {queue}");
            return Err(Exception::new(ReplyCode::PreconditionFailed, text));
        }
    }
    if arguments.contains("x-max-length-bytes") {
        return Err(read.invalid("x-max-length-bytes", "not supported; use x-max-length"));
    }
    let delivery_limit = match read.integer("x-delivery-limit", -1, u32::MAX.into())? {
        Some(limit) => u32::try_from(limit).ok(),
        None => quorum.then_some(QUORUM_DELIVERY_LIMIT),
    };
    let priorities = read.integer("x-max-priority", 0, u8::MAX.into())?.unwrap_or(0);
    Ok(QueueConfig {
        priorities: u8::try_from(priorities).unwrap_or(u8::MAX),
        // With 0 a message is still delivered when a consumer is ready for it.
        ttl_ms: read.milliseconds("x-message-ttl", 0)?.map(|ms| ms.max(1)),
        unused_ms_max: read.milliseconds("x-expires", 1)?,
        length_max: read.integer("x-max-length", 0, i64::MAX)?.map(i64::cast_unsigned),
        overflow: match read.text("x-overflow")? {
            None | Some("drop-head") => Overflow::DropOldest,
            Some("reject-publish") => Overflow::Reject,
            Some(_) => return Err(read.invalid("x-overflow", "invalid_overflow")),
        },
        dead_letter: dead_letter(&read)?,
        delivery_limit,
        single_active: read.boolean("x-single-active-consumer")?,
        options: to_options(arguments),
        ..QueueConfig::default()
    })
}

fn dead_letter(read: &Reading<'_>) -> Result<Option<DeadLetter>, Exception> {
    let key = read.text("x-dead-letter-routing-key")?;
    // Nothing that is dead-lettered is lost here; "at-most-once" may be better than it asks for.
    match read.text("x-dead-letter-strategy")? {
        None | Some("at-most-once" | "at-least-once") => {}
        Some(other) => return Err(read.invalid("x-dead-letter-strategy", format_args!("unknown '{other}'"))),
    }
    let Some(exchange) = read.text("x-dead-letter-exchange")? else {
        return match key {
            None => Ok(None),
            Some(_) => Err(read.invalid("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined")),
        };
    };
    let exchange = match exchange {
        "" => None,
        text => Some(Name::new(text).map_err(|why| read.invalid("x-dead-letter-exchange", why))?),
    };
    let subject = match key {
        None => None,
        Some(key) if key.len() > ShortString::OCTETS_MAX => {
            return Err(read.invalid("x-dead-letter-routing-key", "longer than 255 octets"));
        }
        Some(key) => Some(
            Subject::dotted(key.to_owned()).map_err(|why| read.invalid("x-dead-letter-routing-key", why))?,
        ),
    };
    Ok(Some(DeadLetter { exchange, subject }))
}

/// The `alternate-exchange` of an exchange.
///
/// # Errors
/// PRECONDITION_FAILED when it is no name.
pub(crate) fn alternate(arguments: &FieldTable, exchange: Resource<'_>) -> Result<Option<Name>, Exception> {
    let read = Reading { arguments, queue: exchange };
    let Some(text) = read.text("alternate-exchange")? else { return Ok(None) };
    Name::new(text).map(Some).map_err(|why| read.invalid("alternate-exchange", why))
}

struct Reading<'a> {
    arguments: &'a FieldTable,
    queue: Resource<'a>,
}

impl<'a> Reading<'a> {
    fn invalid(&self, argument: &str, why: impl fmt::Display) -> Exception {
        let text = format!("invalid arg '{argument}' for {}: {why}", self.queue);
        Exception::new(ReplyCode::PreconditionFailed, text)
    }

    fn unacceptable(&self, argument: &str, value: &FieldValue) -> Exception {
        self.invalid(argument, format_args!("{{unacceptable_type,{}}}", value.type_name()))
    }

    fn text(&self, argument: &str) -> Result<Option<&'a str>, Exception> {
        let Some(value) = self.arguments.get(argument) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.unacceptable(argument, value))
    }

    fn boolean(&self, argument: &str) -> Result<bool, Exception> {
        let Some(value) = self.arguments.get(argument) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.unacceptable(argument, value))
    }

    fn integer(&self, argument: &str, min: i64, max: i64) -> Result<Option<i64>, Exception> {
        let Some(value) = self.arguments.get(argument) else { return Ok(None) };
        match value.as_i64() {
            None => {
                Err(self.invalid(argument, format_args!("\"expected integer, got {}\"", value.type_name())))
            }
            Some(0) if min == 1 => Err(self.invalid(argument, "{value_zero,0}")),
            Some(n) if n < min => Err(self.invalid(argument, format_args!("{{value_negative,{n}}}"))),
            Some(n) if n > max => Err(self.invalid(argument, format_args!("{{max_value_exceeded,{n}}}"))),
            Some(n) => Ok(Some(n)),
        }
    }

    fn milliseconds(&self, argument: &str, min: i64) -> Result<Option<u64>, Exception> {
        // A century, as in RabbitMQ; also keeps every instant within what can be written.
        const MAX: i64 = 100 * 365 * 86_400 * 1_000;
        match self.integer(argument, min, i64::MAX)? {
            Some(ms) if ms > MAX => Err(self.invalid(argument, format_args!("{{value_too_large,{ms}}}"))),
            ms => Ok(ms.map(i64::cast_unsigned)),
        }
    }
}

/// Whether a declaration repeats the one that made the queue.
///
/// # Errors
/// PRECONDITION_FAILED about the first argument that differs.
pub(crate) fn check_queue_equivalence(
    current: &QueueConfig,
    received: &FieldTable,
    queue: Resource<'_>,
) -> Result<(), Exception> {
    let current = queue_arguments(current);
    COMPARED.iter().try_for_each(|argument| check_equivalence(argument, &current, received, queue))
}

pub(crate) fn check_equivalence(
    argument: &str,
    current: &FieldTable,
    received: &FieldTable,
    about: Resource<'_>,
) -> Result<(), Exception> {
    let (is, wanted) = (current.get(argument), received.get(argument));
    if equivalent(argument, is, wanted) {
        return Ok(());
    }
    let show = |value| Shown { value, typed: type_class(is) != type_class(wanted) };
    Err(Exception::inequivalent_arg(argument, about, show(wanted), show(is)))
}

fn equivalent(argument: &str, one: Option<&FieldValue>, other: Option<&FieldValue>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(value), None) | (None, Some(value)) => {
            argument == "x-queue-type" && value.as_str() == Some("classic")
        }
        (Some(one), Some(other)) => one == other || number(one).is_some_and(|n| Some(n) == number(other)),
    }
}

/// Numbers are compared by what they are worth, whatever their type: 10 is 10.0.
fn number(value: &FieldValue) -> Option<f64> {
    match value {
        FieldValue::Float(value) => Some(f64::from(*value)),
        FieldValue::Double(value) => Some(*value),
        // Large integers that this makes equal differ in no way that matters to a limit.
        value => value.as_i64().map(|value| value as f64),
    }
}

/// An argument in an error text; with its type where that differs.
struct Shown<'a> {
    value: Option<&'a FieldValue>,
    typed: bool,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            None => f.write_str("none"),
            Some(value) if self.typed => write!(f, "the value '{value}' of type '{}'", value.type_name()),
            Some(value) => write!(f, "'{value}'"),
        }
    }
}

fn type_class(value: Option<&FieldValue>) -> &'static str {
    match value {
        Some(value) if value.as_i64().is_some() => "integer",
        value => value.map_or("none", FieldValue::type_name),
    }
}

/// The arguments that would declare this queue: as they came, or as they follow from its settings when it was
/// created by other means.
pub(crate) fn queue_arguments(config: &QueueConfig) -> FieldTable {
    let mut table = from_options(&config.options);
    let mut add = |name: &'static str, value: Option<FieldValue>| {
        if let (Some(value), false) = (value, table.contains(name)) {
            table.push(ShortString::from_static(name), value);
        }
    };
    let long = |n: u64| FieldValue::LongLongInt(i64::try_from(n).unwrap_or(i64::MAX));
    add("x-message-ttl", config.ttl_ms.map(long));
    add("x-expires", config.unused_ms_max.map(long));
    add("x-max-length", config.length_max.map(long));
    add("x-max-priority", (config.priorities > 0).then(|| i32::from(config.priorities).into()));
    add("x-overflow", (config.overflow == Overflow::Reject).then(|| "reject-publish".into()));
    add("x-single-active-consumer", config.single_active.then(|| true.into()));
    if let Some(dead) = &config.dead_letter {
        let exchange = dead.exchange.as_ref().map_or_else(String::new, ToString::to_string);
        add("x-dead-letter-exchange", Some(exchange.into()));
        add("x-dead-letter-routing-key", dead.subject.as_ref().map(|s| s.to_dotted().into_owned().into()));
    }
    table
}

/// Arguments as the catalog keeps them: the type tag, a colon, and the value, as text where that says it all
/// and otherwise in hexadecimal.
pub(crate) fn to_options(arguments: &FieldTable) -> Options {
    let written = arguments.iter().filter_map(|(name, value)| {
        let text = match value {
            FieldValue::Boolean(_) => value.to_string(),
            FieldValue::LongString(octets) => match std::str::from_utf8(octets) {
                Ok(text) => text.to_owned(),
                Err(_) => return Some((name.as_str().ok()?.to_owned(), hex(value))),
            },
            value if value.as_i64().is_some() => value.to_string(),
            value => return Some((name.as_str().ok()?.to_owned(), hex(value))),
        };
        let tag = char::from(value.type_tag());
        Some((name.as_str().ok()?.to_owned(), format!("{tag}:{text}")))
    });
    // The first of several fields with one name counts.
    let mut options = Options::new();
    written.for_each(|(name, text)| {
        options.entry(name).or_insert(text);
    });
    options
}

fn hex(value: &FieldValue) -> String {
    use fmt::Write;
    let table: FieldTable = std::iter::once((ShortString::default(), value.clone())).collect();
    let mut text = String::from("#:");
    table.encode().iter().for_each(|octet| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{octet:02x}");
    });
    text
}

/// What [`to_options`] wrote; anything else among the options is no argument.
pub(crate) fn from_options(options: &Options) -> FieldTable {
    let read = |(name, text): (&String, &String)| {
        let name = ShortString::try_from(name.as_str()).ok()?;
        let (tag, text) = text.split_once(':')?;
        let value = match tag {
            "#" => {
                let octets: Option<Vec<u8>> = text
                    .as_bytes()
                    .chunks(2)
                    .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                    .collect();
                let table = FieldTable::decode(&Bytes::from(octets?)).ok()?;
                table.into_iter().next()?.1
            }
            "t" => FieldValue::Boolean(text.parse().ok()?),
            "S" => FieldValue::LongString(Bytes::copy_from_slice(text.as_bytes())),
            "b" => FieldValue::ShortShortInt(text.parse().ok()?),
            "B" => FieldValue::ShortShortUint(text.parse().ok()?),
            "s" => FieldValue::ShortInt(text.parse().ok()?),
            "u" => FieldValue::ShortUint(text.parse().ok()?),
            "I" => FieldValue::LongInt(text.parse().ok()?),
            "i" => FieldValue::LongUint(text.parse().ok()?),
            "l" => FieldValue::LongLongInt(text.parse().ok()?),
            "L" => FieldValue::LongLongIntUpper(text.parse().ok()?),
            _ => return None,
        };
        Some((name, value))
    };
    options.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{DecimalValue, ResourceKind};

    fn table(fields: &[(&'static str, FieldValue)]) -> FieldTable {
        fields.iter().map(|(name, value)| (ShortString::from_static(name), value.clone())).collect()
    }

    fn about(name: &ShortString) -> Resource<'_> {
        Resource { kind: ResourceKind::Queue, name, vhost: "/" }
    }

    fn configure(fields: &[(&'static str, FieldValue)]) -> Result<QueueConfig, String> {
        let name = ShortString::from_static("q");
        let declared = Declared { durable: true, exclusive: false, server_named: false };
        queue_config(&table(fields), declared, about(&name)).map_err(|e| e.reply_text.to_string())
    }

    #[test]
    fn arguments_become_settings() {
        let config = configure(&[
            ("x-message-ttl", 60_000.into()),
            ("x-expires", FieldValue::LongLongInt(1_800_000)),
            ("x-max-length", FieldValue::ShortShortUint(10)),
            ("x-overflow", "reject-publish".into()),
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", "dead.letters".into()),
            ("x-max-priority", 9.into()),
            ("x-single-active-consumer", true.into()),
            ("x-queue-mode", "lazy".into()),
        ])
        .unwrap();
        assert_eq!(
            (config.ttl_ms, config.unused_ms_max, config.length_max),
            (Some(60_000), Some(1_800_000), Some(10))
        );
        assert_eq!((config.overflow, config.priorities, config.single_active), (Overflow::Reject, 9, true));
        let dead = config.dead_letter.as_ref().unwrap();
        assert_eq!(
            (dead.exchange.as_ref(), dead.subject.as_ref().unwrap().to_string()),
            (None, "dead.letters".into())
        );
        assert_eq!(config.delivery_limit, None);
        assert_eq!(configure(&[("x-queue-type", "quorum".into())]).unwrap().delivery_limit, Some(20));
        let off = [("x-queue-type", "quorum".into()), ("x-delivery-limit", (-1).into())];
        assert_eq!(configure(&off).unwrap().delivery_limit, None);
    }

    #[test]
    fn wrong_arguments_are_refused_in_rabbitmqs_words() {
        for (fields, expect) in [
            (
                vec![("x-message-ttl", "soon".into())],
                "invalid arg 'x-message-ttl' for queue 'q' in vhost '/': \"expected integer, got longstr\"",
            ),
            (
                vec![("x-message-ttl", (-1).into())],
                "invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_negative,-1}",
            ),
            (
                vec![("x-expires", 0.into())],
                "invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}",
            ),
            (
                vec![("x-max-priority", 256.into())],
                "invalid arg 'x-max-priority' for queue 'q' in vhost '/': {max_value_exceeded,256}",
            ),
            (
                vec![("x-dead-letter-routing-key", "k".into())],
                "invalid arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': \
                     routing_key_but_no_dlx_defined",
            ),
            (
                vec![("x-queue-type", "stream".into())],
                "invalid arg 'x-queue-type' for queue 'q' in vhost '/': \"unsupported queue type 'stream'\"",
            ),
            (
                vec![("x-overflow", "reject-publish-dlx".into())],
                "invalid arg 'x-overflow' for queue 'q' in vhost '/': invalid_overflow",
            ),
            (
                vec![("x-max-length-bytes", 5.into())],
                "invalid arg 'x-max-length-bytes' for queue 'q' in vhost '/': not supported; use \
                     x-max-length",
            ),
            (
                vec![("x-single-active-consumer", 1.into())],
                "invalid arg 'x-single-active-consumer' for queue 'q' in vhost '/': \
                     {unacceptable_type,signedint}",
            ),
        ] {
            assert_eq!(configure(&fields).unwrap_err(), format!("PRECONDITION_FAILED - {expect}"));
        }
        let name = ShortString::from_static("q");
        let declared = Declared { durable: false, exclusive: true, server_named: false };
        let quorum = table(&[("x-queue-type", "quorum".into())]);
        let error = queue_config(&quorum, declared, about(&name)).unwrap_err();
        assert!(error.reply_text.to_string().contains("invalid property 'non-durable'"), "{error}");
    }

    #[test]
    fn declarations_are_compared_by_value() {
        let ttl = |value: FieldValue| vec![("x-message-ttl", value)];
        let differs =
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received ";
        for (current, received, expect) in [
            (ttl(10.into()), ttl(FieldValue::LongLongInt(10)), None),
            (ttl(10.into()), ttl(FieldValue::Double(10.0)), None),
            (ttl(10.into()), vec![], Some("none but current is the value '10' of type 'signedint'")),
            (ttl(10.into()), ttl(FieldValue::LongLongInt(20)), Some("'20' but current is '10'")),
            (vec![], ttl(10.into()), Some("the value '10' of type 'signedint' but current is none")),
            (
                ttl(10.into()),
                ttl("10".into()),
                Some("the value '10' of type 'longstr' but current is the value '10' of type 'signedint'"),
            ),
            (vec![("x-queue-type", "classic".into())], vec![], None),
            (vec![], vec![("x-queue-mode", "lazy".into())], None),
        ] {
            let name = ShortString::from_static("q");
            let config = configure(&current).unwrap();
            let result = check_queue_equivalence(&config, &table(&received), about(&name));
            let expect = expect.map_or(Ok(()), |text| Err(format!("{differs}{text}")));
            assert_eq!(result.map_err(|e| e.reply_text.to_string()), expect);
        }
    }

    #[test]
    fn a_queue_created_by_other_means_has_the_arguments_of_its_settings() {
        let config = QueueConfig { ttl_ms: Some(5), length_max: Some(7), ..QueueConfig::default() };
        let name = ShortString::from_static("q");
        let same = table(&[("x-message-ttl", 5.into()), ("x-max-length", 7.into())]);
        assert_eq!(check_queue_equivalence(&config, &same, about(&name)), Ok(()));
        assert!(check_queue_equivalence(&config, &FieldTable::new(), about(&name)).is_err());
    }

    #[test]
    fn arguments_survive_the_catalog() {
        let all = table(&[
            ("a", FieldValue::Array(vec![1.into(), "x".into()])),
            ("b", FieldValue::ByteArray(Bytes::from_static(&[0, 255]))),
            ("d", FieldValue::Decimal(DecimalValue { scale: 1, value: 7 })),
            ("f", FieldValue::Double(1.5)),
            ("i", 7.into()),
            ("n", FieldValue::LongString(Bytes::from_static(b"\xff"))),
            ("s", "a:b".into()),
            ("t", true.into()),
            ("v", FieldValue::Void),
        ]);
        let options = to_options(&all);
        assert_eq!(options.get("s").map(String::as_str), Some("S:a:b"));
        assert_eq!(from_options(&options), all);
        let foreign =
            Options::from([("visibility".to_owned(), "30".to_owned()), ("x".into(), "#:zz".into())]);
        assert!(from_options(&foreign).is_empty());
    }
}
