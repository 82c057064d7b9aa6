//! What topics and the broker can be told, in Kafka's words.
//!
//! [`SETTINGS`] lists every topic setting of Kafka 4.1 and our own. What is honoured goes into
//! [`TopicConfig`]; what only tunes an implementation that is not ours is kept and shown; what would promise
//! something that is not so is refused.

pub mod broker;
mod table;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use posthaste_engine::catalog::{Durability, TopicConfig};
use posthaste_model::{Limits, Pattern, Syntax};

pub use table::SETTINGS;
use table::{
    CAPTURE, CLEANUP_POLICY, DURABILITY, FLUSH_MESSAGES, FLUSH_MS, MAX_MESSAGE_BYTES, RETENTION_BYTES,
    RETENTION_TIME, TIMESTAMP_AFTER_MAX, TIMESTAMP_BEFORE_MAX, TIMESTAMP_TYPE, UNLIMITED,
};

/// A setting of topics.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub kind: Kind,
    /// What holds when nothing is said.
    default: &'static str,
    /// The broker setting that gives the default in Kafka.
    pub synonym: Option<&'static str>,
    treatment: Treatment,
    pub documentation: &'static str,
}

/// What values a setting takes.
#[derive(Debug, Clone)]
pub enum Kind {
    Boolean,
    /// 0 to 1.
    Ratio,
    Int(RangeInclusive<i64>),
    List,
    Long(RangeInclusive<i64>),
    /// One of these.
    Choice(&'static [&'static str]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// Honoured, by the core or by this adapter.
    Honoured,
    /// Kept and shown; it tunes what is done otherwise here.
    Kept,
    /// Only the default is true here.
    Fixed,
}

/// How long records are kept when nothing is said: Kafka's seven days.
const RETENTION_MS: u64 = 7 * 24 * 3_600_000;

/// The largest batch when nothing is said, in bytes: Kafka's `message.max.bytes`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// How far in the future a record's timestamp may be when nothing is said: Kafka's hour.
const TIMESTAMP_AFTER_MAX_MS: i64 = 3_600_000;

/// A change of one setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Adds these to a list.
    Append(&'a str),
    /// Back to the default.
    Delete,
    Set(&'a str),
    /// Takes these out of a list.
    Subtract(&'a str),
}

/// The settings that were made, by name; all others have their defaults.
type Made = BTreeMap<&'static str, String>;

impl Setting {
    /// What holds when nothing is said, on this broker.
    pub fn default(&self, limits: &Limits) -> String {
        match self.name {
            MAX_MESSAGE_BYTES => MESSAGE_BYTES_MAX.min(limits.message_bytes_max).to_string(),
            _ => self.default.to_owned(),
        }
    }

    /// Whether no other value can be set.
    pub fn is_fixed(&self) -> bool {
        self.treatment == Treatment::Fixed
    }

    fn named(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    fn check(&self, value: &str, limits: &Limits) -> Result<(), String> {
        let invalid =
            |why: &str| Err(format!("Invalid value {value} for configuration {}: {why}", self.name));
        match &self.kind {
            Kind::Boolean if !matches!(value, "true" | "false") => {
                return invalid("expected 'true' or 'false'");
            }
            Kind::Choice(choices) if !choices.contains(&value) => {
                return invalid(&format!("String must be one of: {}", choices.join(", ")));
            }
            Kind::Int(range) | Kind::Long(range) => match value.parse::<i64>() {
                Ok(number) if range.contains(&number) => {}
                Ok(_) => return invalid(&format!("must be between {} and {}", range.start(), range.end())),
                Err(_) => return invalid("not a number"),
            },
            Kind::Ratio if !value.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio)) => {
                return invalid("must be between 0 and 1");
            }
            _ => {}
        }
        if self.treatment == Treatment::Fixed && value != self.default {
            return invalid(&format!("only {} is possible here. {}", self.default, self.documentation));
        }
        match self.name {
            CLEANUP_POLICY if list(value).any(|policy| !matches!(policy, "compact" | "delete")) => {
                invalid("String must be one of: compact, delete")
            }
            CAPTURE => match patterns(value) {
                Ok(_) => Ok(()),
                Err(why) => invalid(&why),
            },
            MAX_MESSAGE_BYTES if value.parse().is_ok_and(|max: usize| max > limits.message_bytes_max) => {
                invalid(&format!(
                    "the broker takes batches of at most {} bytes (limit message_bytes_max)",
                    limits.message_bytes_max
                ))
            }
            _ => Ok(()),
        }
    }
}

/// The configuration of a new topic. The error is a sentence for the client.
pub fn create<'a>(
    changes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    limits: &Limits,
) -> Result<TopicConfig, String> {
    let mut made = Made::new();
    for (name, value) in changes {
        let Some(value) = value else {
            return Err(format!("Null value not supported for topic configs: {name}"));
        };
        change(&mut made, name, Change::Set(value), limits)?;
    }
    build(made, &TopicConfig::default(), limits)
}

/// The configuration of a topic after some changes; `keep` are the settings that stay when not changed.
pub fn alter<'a>(
    current: &TopicConfig,
    keep: bool,
    changes: impl IntoIterator<Item = (&'a str, Change<'a>)>,
    limits: &Limits,
) -> Result<TopicConfig, String> {
    let mut made = if keep { made(current, limits) } else { Made::new() };
    for (name, what) in changes {
        change(&mut made, name, what, limits)?;
    }
    build(made, current, limits)
}

fn change(made: &mut Made, name: &str, change: Change<'_>, limits: &Limits) -> Result<(), String> {
    let setting = Setting::named(name).ok_or_else(|| format!("Unknown topic config name: {name}"))?;
    let is_list = matches!(setting.kind, Kind::List);
    let current = || made.get(setting.name).map_or(setting.default, String::as_str);
    let value = match change {
        Change::Delete => {
            made.remove(setting.name);
            return Ok(());
        }
        Change::Append(_) | Change::Subtract(_) if !is_list => {
            return Err(format!("Config value append is not allowed for config key: {name}"));
        }
        Change::Set(value) if is_list => list(value).collect::<Vec<_>>().join(","),
        Change::Set(value) => value.trim().to_owned(),
        Change::Append(more) => {
            let mut items: Vec<_> = list(current()).collect();
            for item in list(more) {
                if !items.contains(&item) {
                    items.push(item);
                }
            }
            items.join(",")
        }
        Change::Subtract(less) => {
            let less: Vec<_> = list(less).collect();
            list(current()).filter(|item| !less.contains(item)).collect::<Vec<_>>().join(",")
        }
    };
    setting.check(&value, limits)?;
    made.insert(setting.name, value);
    Ok(())
}

/// What was set on a topic, in Kafka's words.
fn made(config: &TopicConfig, limits: &Limits) -> Made {
    let mut made = Made::new();
    for (name, value) in &config.options {
        if let Some(setting) = Setting::named(name) {
            made.insert(setting.name, value.clone());
        }
    }
    // Retention of a topic that is not deleted from waits among the options.
    if deletes(&made) {
        match config.retention_ms {
            Some(RETENTION_MS) => {}
            Some(ms) => drop(made.insert(RETENTION_TIME, ms.to_string())),
            None => drop(made.insert(RETENTION_TIME, "-1".to_owned())),
        }
        if let Some(bytes) = config.retention_bytes {
            made.insert(RETENTION_BYTES, bytes.to_string());
        }
    }
    let default = MESSAGE_BYTES_MAX.min(limits.message_bytes_max) as u64;
    let max = config.message_bytes_max.unwrap_or(limits.message_bytes_max as u64);
    if max != default {
        made.insert(MAX_MESSAGE_BYTES, max.to_string());
    }
    if config.broker_timestamps {
        made.insert(TIMESTAMP_TYPE, "LogAppendTime".to_owned());
    }
    if config.durability == Durability::Os {
        made.insert(DURABILITY, "os".to_owned());
    }
    if !config.captures.is_empty() {
        let captures: Vec<_> = config.captures.iter().map(Pattern::to_string).collect();
        made.insert(CAPTURE, captures.join(","));
    }
    made
}

/// `current` gives what other protocols have set in their own words.
fn build(mut made: Made, current: &TopicConfig, limits: &Limits) -> Result<TopicConfig, String> {
    let os = made.get(DURABILITY).is_some_and(|durability| durability == "os");
    if os && (made.contains_key(FLUSH_MESSAGES) || made.contains_key(FLUSH_MS)) {
        return Err(
            "flush.messages and flush.ms promise what posthaste.durability=os does not keep".to_owned()
        );
    }
    let mut config = TopicConfig {
        captures: made.remove(CAPTURE).map_or(Ok(Vec::new()), |value| patterns(&value))?,
        message_bytes_max: Some(match made.remove(MAX_MESSAGE_BYTES).and_then(|value| value.parse().ok()) {
            Some(max) => max,
            None => MESSAGE_BYTES_MAX.min(limits.message_bytes_max) as u64,
        }),
        durability: if os { Durability::Os } else { Durability::Fsync },
        broker_timestamps: made.remove(TIMESTAMP_TYPE).is_some_and(|value| value == "LogAppendTime"),
        ..TopicConfig::default()
    };
    made.remove(DURABILITY);
    if deletes(&made) {
        // -1 is no number of this type, and so means no limit.
        config.retention_ms =
            made.remove(RETENTION_TIME).map_or(Some(RETENTION_MS), |value| value.parse().ok());
        config.retention_bytes = made.remove(RETENTION_BYTES).and_then(|value| value.parse().ok());
    }
    config.options = made.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let foreign = current.options.iter().filter(|(name, _)| Setting::named(name).is_none());
    config.options.extend(foreign.map(|(name, value)| (name.clone(), value.clone())));
    Ok(config)
}

/// Whether old records are dropped.
fn deletes(made: &Made) -> bool {
    made.get(CLEANUP_POLICY).is_none_or(|policies| list(policies).any(|policy| policy == "delete"))
}

/// Whether the topic is told to be compacted: then every record needs a key.
pub fn is_compacted(config: &TopicConfig) -> bool {
    config
        .options
        .get(CLEANUP_POLICY)
        .is_some_and(|policies| list(policies).any(|policy| policy == "compact"))
}

/// How far a record's timestamp may lie in the past and in the future, in milliseconds.
pub fn timestamp_bounds(config: &TopicConfig) -> (i64, i64) {
    let of = |name, default| config.options.get(name).and_then(|value| value.parse().ok()).unwrap_or(default);
    (of(TIMESTAMP_BEFORE_MAX, i64::MAX), of(TIMESTAMP_AFTER_MAX, TIMESTAMP_AFTER_MAX_MS))
}

/// The value that holds of every setting, and whether it was set.
pub fn describe(config: &TopicConfig, limits: &Limits) -> Vec<(&'static Setting, String, bool)> {
    let mut made = made(config, limits);
    let os = config.durability == Durability::Os;
    let describe = |setting: &'static Setting| match made.remove(setting.name) {
        Some(value) => (setting, value, true),
        None if os && matches!(setting.name, FLUSH_MESSAGES | FLUSH_MS) => {
            (setting, UNLIMITED.to_owned(), false)
        }
        None => (setting, setting.default(limits), false),
    };
    SETTINGS.iter().map(describe).collect()
}

fn patterns(value: &str) -> Result<Vec<Pattern>, String> {
    list(value).map(|text| Pattern::parse(text, Syntax::DOTTED).map_err(|error| error.to_string())).collect()
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests;
