//! `--limit`: how much a user or a namespace may use up.

use clap::Args;
use serde_json::{Map, Value, json};

/// Names of limits.
const NAMES: [&str; 7] = [
    "connections",
    "objects",
    "published_bytes_per_second",
    "published_messages_per_second",
    "read_bytes_per_second",
    "read_messages_per_second",
    "stored_bytes",
];

#[derive(Args)]
pub struct Limits {
    /// How much may be used up at most: connections, objects, published_bytes_per_second,
    /// published_messages_per_second, read_bytes_per_second, read_messages_per_second or stored_bytes;
    /// `none` for any number
    #[arg(long = "limit", value_name = "NAME=NUMBER", value_parser = parse)]
    limits: Vec<(String, Option<u64>)>,
}

impl Limits {
    /// As the API wants them: those of `before` that are not given stay.
    pub fn over(&self, before: Value) -> Value {
        let mut limits = match before {
            Value::Object(limits) => limits,
            _ => Map::new(),
        };
        limits.extend(self.limits.iter().map(|(name, number)| (name.clone(), json!(number))));
        Value::Object(limits)
    }
}

fn parse(text: &str) -> Result<(String, Option<u64>), String> {
    let (name, number) = text.split_once('=').ok_or("write it as NAME=NUMBER, such as connections=100")?;
    let name = name.replace('-', "_");
    if !NAMES.contains(&name.as_str()) {
        return Err(format!("there is no limit '{name}'; there are {}", NAMES.join(", ")));
    }
    let number = match number {
        "none" => None,
        number => Some(number.parse().map_err(|_| format!("'{number}' is neither a whole number nor none"))?),
    };
    Ok((name, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_command_line() {
        for (text, expect) in [
            ("connections=5", Some(("connections", Some(5)))),
            ("stored-bytes=0", Some(("stored_bytes", Some(0)))),
            ("objects=none", Some(("objects", None))),
            ("objects", None),
            ("objects=-1", None),
            ("memory=1", None),
        ] {
            let parsed = parse(text).ok();
            assert_eq!(parsed, expect.map(|(name, number)| (name.to_owned(), number)), "{text}");
        }
        let given =
            Limits { limits: vec![("objects".to_owned(), None), ("connections".to_owned(), Some(1))] };
        let merged = given.over(json!({ "objects": 7, "stored_bytes": 9 }));
        assert_eq!(merged, json!({ "objects": null, "connections": 1, "stored_bytes": 9 }));
    }
}
