//! The headers by which RabbitMQ tells where a message died.

use crate::{
    names::short,
    wire::{BasicProperties, FieldTable, FieldValue, ShortString},
};
use posthaste_model::{Death, DeathReason};

/// Writes the deaths of a message into its properties, in the format of RabbitMQ 4. What the publisher put
/// under these names is replaced; its `expiration` has had its effect and moves into the first death.
/// `published_to` is the exchange that the message was published to before it died first.
pub(crate) fn write(properties: &mut BasicProperties, deaths: &[Death], published_to: &str) {
    let (Some(last), Some(first)) = (deaths.first(), first(deaths)) else { return };
    let expiration = properties.expiration.take();
    let headers = properties.headers.get_or_insert_default();
    let exchange = |death: &Death| match &death.exchange {
        Some(exchange) => exchange.to_string(),
        None if std::ptr::eq(death, first) => published_to.to_owned(),
        None => String::new(),
    };
    let tables = deaths.iter().map(|death| {
        let original = expiration.as_ref().filter(|_| std::ptr::eq(death, first));
        FieldValue::Table(table(death, exchange(death), original))
    });
    insert(headers, "x-death", FieldValue::Array(tables.collect()));
    for (death, names) in [
        (first, ["x-first-death-exchange", "x-first-death-queue", "x-first-death-reason"]),
        (last, ["x-last-death-exchange", "x-last-death-queue", "x-last-death-reason"]),
    ] {
        let values = [exchange(death), death.queue.to_string(), reason(death.reason).to_owned()];
        for (name, value) in names.into_iter().zip(values) {
            insert(headers, name, value.into());
        }
    }
}

/// The death that happened first: entries are ordered by their latest.
fn first(deaths: &[Death]) -> Option<&Death> {
    deaths.iter().rev().min_by_key(|death| death.first)
}

fn table(death: &Death, exchange: String, original_expiration: Option<&ShortString>) -> FieldTable {
    let mut table = FieldTable::new();
    if let Some(expiration) = original_expiration {
        table.push(ShortString::from_static("original-expiration"), FieldValue::from(expiration));
    }
    let key = short(&death.subject.to_dotted());
    let fields: [(&'static str, FieldValue); 6] = [
        ("count", FieldValue::LongLongInt(death.count.into())),
        ("reason", reason(death.reason).into()),
        ("queue", death.queue.to_string().into()),
        ("time", FieldValue::Timestamp(u64::try_from(death.first.0 / 1_000).unwrap_or(0))),
        ("exchange", exchange.into()),
        ("routing-keys", FieldValue::Array(vec![FieldValue::from(&key)])),
    ];
    fields.into_iter().for_each(|(name, value)| table.push(ShortString::from_static(name), value));
    table
}

fn insert(headers: &mut FieldTable, name: &'static str, value: FieldValue) {
    headers.insert(ShortString::from_static(name), value);
}

fn reason(reason: DeathReason) -> &'static str {
    match reason {
        DeathReason::DeliveryLimit => "delivery_limit",
        DeathReason::Expired => "expired",
        DeathReason::LengthLimit => "maxlen",
        DeathReason::Rejected => "rejected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::{Name, Subject, Timestamp};

    fn death(queue: &'static str, reason: DeathReason, first: i64, exchange: Option<&'static str>) -> Death {
        Death {
            queue: Name::constant(queue),
            reason,
            count: 2,
            first: Timestamp(first),
            exchange: exchange.map(Name::constant),
            subject: Subject::dotted("key").unwrap(),
        }
    }

    #[test]
    fn deaths_read_as_in_rabbitmq() {
        let mut headers = FieldTable::new();
        headers.push(ShortString::from_static("x-death"), "forged");
        headers.push(ShortString::from_static("mine"), 1);
        let mut properties = BasicProperties {
            headers: Some(headers),
            expiration: Some(ShortString::from_static("100")),
            ..BasicProperties::default()
        };
        let deaths = [
            death("second", DeathReason::Rejected, 2_000, Some("dlx")),
            death("first", DeathReason::Expired, 1_999, None),
        ];
        write(&mut properties, &deaths, "orders");
        assert_eq!(properties.expiration, None);
        let headers = properties.headers.unwrap();
        assert_eq!(headers.get("mine"), Some(&1.into()));
        let found = headers.get("x-death").and_then(FieldValue::as_array).unwrap();
        let shown: Vec<Vec<(String, &FieldValue)>> = found
            .iter()
            .map(|d| d.as_table().unwrap().iter().map(|(name, value)| (name.to_string(), value)).collect())
            .collect();
        let names: Vec<&str> = shown[1].iter().map(|(name, _)| name.as_str()).collect();
        let order = ["original-expiration", "count", "reason", "queue", "time", "exchange", "routing-keys"];
        assert_eq!(names, order);
        assert_eq!(shown[0].len(), 6, "the expiration took effect once");
        let text = |table: usize, name: &str| found[table].as_table().unwrap().get(name).unwrap().to_string();
        assert_eq!((text(0, "exchange"), text(1, "exchange")), ("dlx".into(), "orders".into()));
        assert_eq!(
            (text(1, "count"), text(1, "time"), text(1, "original-expiration")),
            ("2".into(), "1".into(), "100".into())
        );
        for (name, expect) in [
            ("x-first-death-queue", "first"),
            ("x-first-death-reason", "expired"),
            ("x-first-death-exchange", "orders"),
            ("x-last-death-queue", "second"),
            ("x-last-death-reason", "rejected"),
            ("x-last-death-exchange", "dlx"),
        ] {
            assert_eq!(headers.get(name).and_then(FieldValue::as_str), Some(expect), "{name}");
        }
    }

    #[test]
    fn a_message_that_never_died_is_left_alone() {
        let mut properties =
            BasicProperties { expiration: Some(ShortString::from_static("1")), ..Default::default() };
        write(&mut properties, &[], "");
        assert!(properties.headers.is_none() && properties.expiration.is_some());
    }
}
