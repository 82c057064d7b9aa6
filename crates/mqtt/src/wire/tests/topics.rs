use crate::wire::{ByteString, DecodeError, TopicFilter, check_topic_name};

#[test]
fn topic_filters() {
    let too_long = "a".repeat(65_536);
    let cases: &[(&str, bool)] = &[
        // The examples of section 4.7.1.
        ("sport/tennis/player1/#", true),
        ("#", true),
        ("sport/tennis/#", true),
        ("sport/tennis#", false),
        ("sport/tennis/#/ranking", false),
        ("+", true),
        ("+/tennis/#", true),
        ("sport+", false),
        ("sport/+/player1", true),
        ("/finance", true),
        ("/", true),
        ("//", true),
        ("+/+", true),
        ("", false),
        ("##", false),
        ("+#", false),
        ("a/b+/c", false),
        ("$SYS/#", true),
        ("Accounts payable", true),
        ("$share/g/t", true),
        ("$share/g//", true),
        ("$share/g/+/#", true),
        ("$share/g/", false),
        ("$share/g", false),
        ("$share/", false),
        ("$share//t", false),
        ("$share/+/t", false),
        ("$share/g#/t", false),
        ("$share/g/a#", false),
        ("$share", true),
        ("$shared/g/t", true),
        (&too_long, false),
    ];
    for (filter, valid) in cases {
        let parsed = TopicFilter::parse(ByteString::from(*filter));
        assert_eq!(parsed.is_ok(), *valid, "{filter}");
    }
    assert_eq!(TopicFilter::parse("a\0b".into()), Err(DecodeError::NulCharacter));
}

#[test]
fn parts_of_a_topic_filter() {
    let cases = [
        ("a/b", None, "a/b", false),
        ("a/+", None, "a/+", true),
        ("$share/workers/a/#", Some("workers"), "a/#", true),
        ("$share/workers//", Some("workers"), "/", false),
    ];
    for (full, share_name, filter, wildcard) in cases {
        let parsed = TopicFilter::parse(full.into()).expect("well-formed");
        assert_eq!(parsed.as_str(), full);
        assert_eq!(parsed.share_name(), share_name, "{full}");
        assert_eq!(parsed.filter(), filter, "{full}");
        assert_eq!(parsed.has_wildcard(), wildcard, "{full}");
        assert_eq!(parsed.is_shared(), share_name.is_some(), "{full}");
    }
}

#[test]
fn topic_names() {
    for valid in ["a", "/", "a/b", "$SYS/uptime", " ", "ä/€/😀", "//"] {
        assert_eq!(check_topic_name(valid), Ok(()), "{valid}");
    }
    let too_long = "a".repeat(65_536);
    let cases = [
        ("", DecodeError::EmptyTopicName),
        ("a/+", DecodeError::TopicNameInvalid),
        ("#", DecodeError::TopicNameInvalid),
        ("a\0", DecodeError::NulCharacter),
        (too_long.as_str(), DecodeError::TopicNameInvalid),
    ];
    for (name, error) in cases {
        assert_eq!(check_topic_name(name), Err(error));
    }
}
