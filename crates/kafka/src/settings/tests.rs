use super::*;

fn config(changes: &[(&str, &str)]) -> Result<TopicConfig, String> {
    create(changes.iter().map(|(name, value)| (*name, Some(*value))), &Limits::default())
}

/// What is shown of a topic that is not a default, as `name=value`.
fn shown(config: &TopicConfig) -> Vec<String> {
    let all = describe(config, &Limits::default());
    all.into_iter()
        .filter(|(_, _, set)| *set)
        .map(|(setting, value, _)| format!("{}={value}", setting.name))
        .collect()
}

#[test]
fn names_are_known_once() {
    let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SETTINGS.len());
    for setting in SETTINGS {
        let limits = Limits::default();
        let default = setting.default(&limits);
        assert_eq!(setting.check(&default, &limits), Ok(()), "{}", setting.name);
    }
}

#[test]
fn a_topic_has_the_defaults_of_kafka_unless_told() {
    let plain = config(&[]).unwrap();
    assert_eq!((plain.retention_ms, plain.message_bytes_max), (Some(604_800_000), Some(1_048_588)));
    assert_eq!(shown(&plain), [""; 0]);
    assert_eq!(config(&[("retention.ms", "-1")]).unwrap().retention_ms, None);
}

#[test]
fn what_is_set_is_shown_and_done() {
    let config = config(&[
        ("retention.ms", "1000"),
        ("retention.bytes", "2000"),
        ("max.message.bytes", "3000"),
        ("message.timestamp.type", "LogAppendTime"),
        ("posthaste.durability", "os"),
        ("posthaste.capture", "sensors.#, a.*"),
        ("segment.bytes", "1048576"),
        ("message.timestamp.after.max.ms", "5"),
    ])
    .unwrap();
    assert_eq!((config.retention_ms, config.retention_bytes), (Some(1000), Some(2000)));
    assert_eq!((config.message_bytes_max, config.broker_timestamps), (Some(3000), true));
    assert_eq!((config.durability, config.captures.len()), (Durability::Os, 2));
    assert_eq!(timestamp_bounds(&config), (i64::MAX, 5));
    let expect = [
        "max.message.bytes=3000",
        "message.timestamp.after.max.ms=5",
        "message.timestamp.type=LogAppendTime",
        "posthaste.capture=sensors.#,a.*",
        "posthaste.durability=os",
        "retention.bytes=2000",
        "retention.ms=1000",
        "segment.bytes=1048576",
    ];
    assert_eq!(shown(&config), expect);
    let again = alter(&config, true, [], &Limits::default()).unwrap();
    assert_eq!(again, config);
    assert_eq!(alter(&config, false, [], &Limits::default()), create([], &Limits::default()));
}

#[test]
fn a_compacted_topic_drops_nothing() {
    let limits = Limits::default();
    let compacted = config(&[("cleanup.policy", "compact"), ("retention.ms", "1000")]).unwrap();
    assert_eq!((compacted.retention_ms, is_compacted(&compacted)), (None, true));
    assert_eq!(shown(&compacted), ["cleanup.policy=compact", "retention.ms=1000"]);
    let both = alter(&compacted, true, [("cleanup.policy", Change::Append("delete"))], &limits).unwrap();
    assert_eq!((both.retention_ms, is_compacted(&both)), (Some(1000), true));
    let deleted = alter(&both, true, [("cleanup.policy", Change::Subtract("compact"))], &limits).unwrap();
    assert_eq!((deleted.retention_ms, is_compacted(&deleted)), (Some(1000), false));
    let plain = alter(&deleted, true, [("retention.ms", Change::Delete)], &limits).unwrap();
    assert_eq!(plain.retention_ms, Some(604_800_000));
}

#[test]
fn what_other_protocols_set_stays() {
    let mut config = TopicConfig::default();
    config.options.insert("x-other".to_owned(), "1".to_owned());
    assert_eq!(shown(&config), ["max.message.bytes=16777216", "retention.ms=-1"]);
    let limits = Limits::default();
    let altered = alter(&config, true, [("retention.bytes", Change::Set("5"))], &limits).unwrap();
    assert_eq!((altered.retention_ms, altered.retention_bytes), (None, Some(5)));
    assert_eq!(altered.options, config.options);
}

#[test]
fn what_cannot_be_is_refused() {
    for (name, value) in [
        ("no.such.setting", "1"),
        ("retention.ms", "a week"),
        ("retention.ms", "-2"),
        ("cleanup.policy", "shrink"),
        ("compression.type", "zstd"),
        ("remote.storage.enable", "true"),
        ("min.insync.replicas", "2"),
        ("min.cleanable.dirty.ratio", "1.5"),
        ("preallocate", "yes"),
        ("max.message.bytes", "999999999"),
        ("message.timestamp.type", "logappendtime"),
        ("posthaste.durability", "maybe"),
    ] {
        let error = config(&[(name, value)]).unwrap_err();
        assert!(error.contains(name), "{name}={value}: {error}");
    }
    assert!(config(&[("flush.messages", "1")]).is_ok());
    assert!(config(&[("flush.messages", "1"), ("posthaste.durability", "os")]).is_err());
    assert!(create([("retention.ms", None)], &Limits::default()).is_err());
    let limits = Limits::default();
    let appended = alter(&TopicConfig::default(), true, [("retention.ms", Change::Append("1"))], &limits);
    assert!(appended.is_err());
}
