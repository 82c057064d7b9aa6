use crate::{
    connection::Connection,
    convert::{store, to_value},
    deliveries::Out,
    names,
    publishing::Publishing,
    reply,
    state::Run,
    wire::{
        BasicProperties, Content, Exception, FieldError, FieldTable, FieldValue, PropertyList, ReplyCode,
        ShortString, basic, encode_content,
    },
};
use bytes::Bytes;
use posthaste_engine::catalog::Headers;
use posthaste_model::{Envelope, Subject, Timestamp, Value};
use posthaste_net::Output;
use std::cell::OnceCell;

/// RabbitMQ's limit on times to live: a century.
const EXPIRATION_MS_MAX: i128 = 100 * 365 * 86_400 * 1_000;
/// The delayed message plugin's limit, about 49 days.
const DELAY_MS_MAX: i64 = u32::MAX as i64;

/// Headers that mean something to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Special {
    /// More routing keys.
    copies: bool,
    /// More routing keys, which receivers do not see.
    blind_copies: bool,
    delay: bool,
}

impl Connection {
    /// `basic.publish`: joins what this read contained, and is told about later where confirms are on.
    pub(crate) fn basic_publish(
        &mut self,
        number: u16,
        publish: &basic::Publish,
        content: Content,
        out: &mut Output,
    ) -> Result<(), Exception> {
        if publish.immediate {
            return Err(Exception::new(ReplyCode::NotImplemented, "immediate=true"));
        }
        let Content { mut properties, body } = content;
        let special = special_headers(&properties)?;
        self.check_user(&properties)?;
        if properties.reply_to().is_some_and(|name| name.as_bytes() == names::REPLY_TO.as_bytes()) {
            properties = self.with_reply_queue(number, &properties)?;
        }
        let keys = further_keys(&mut properties, special)?;
        let mut publishing = self.publishing.take().unwrap_or_else(|| Publishing::new(&self.client));
        let published = self.publish_one(
            number,
            publish,
            &properties,
            body.into_bytes(),
            special.delay,
            &keys,
            &mut publishing,
            out,
        );
        // What was taken before something went wrong goes on its way.
        self.publishing = Some(publishing);
        self.publishes = true;
        published
    }

    #[allow(clippy::too_many_arguments)]
    fn publish_one(
        &mut self,
        number: u16,
        publish: &basic::Publish,
        properties: &PropertyList,
        body: Bytes,
        delayed: bool,
        keys: &[Subject],
        publishing: &mut Publishing,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let exchange = &publish.exchange;
        let Some(traits) = publishing.traits(&self.client, exchange) else {
            return Err(Exception::not_found(self.exchange_resource(exchange)));
        };
        if traits.internal {
            let text = format!("cannot publish to internal {}", self.exchange_resource(exchange));
            return Err(Exception::new(ReplyCode::AccessRefused, text));
        }
        let name = exchange.as_str().ok().filter(|name| !name.is_empty());
        let durable = properties.is_persistent();
        let returnable = publish.mandatory.then(|| body.clone());
        publishing.bytes += body.len();
        let copies = &mut publishing.copies;
        let (key, payload) = store(exchange, &publish.routing_key, properties, body, durable, copies);
        let subject = Subject::dotted(key)
            .map_err(|_| Exception::new(ReplyCode::PreconditionFailed, "the routing key is not UTF-8"))?;
        let mut envelope = Envelope::new(subject, publishing.now);
        envelope.durable = durable;
        envelope.priority = properties.priority().unwrap_or(0);
        if traits.delaying && delayed {
            envelope.due = delay(properties)?.map(|ms| publishing.now.plus_ms(ms));
        }
        envelope.expires = expiry(properties, envelope.due.unwrap_or(publishing.now))?;
        let headers = LazyHeaders::new(properties);
        let index = publishing.batch.len();
        let batch = &mut publishing.batch;
        let routed = match keys {
            [] => batch.publish(name, envelope, payload, &headers),
            keys => batch.publish_under(name, envelope, payload, &headers, keys),
        };
        let routed = routed.map_err(|error| reply::exception(&error, self.exchange_resource(exchange)))?;
        let nowhere = routed.nowhere();
        if let (true, Some(body)) = (nowhere, returnable) {
            self.give_back_unrouted(number, publish, properties, body, out)?;
        }
        let channel = self.channel(number)?;
        if let Some(tag) = &mut channel.next_publish_tag {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            Run::add(&mut publishing.runs, number, channel.serial, index, *tag);
            *tag += 1;
        }
        Ok(())
    }

    /// Nobody gets the message: the publisher gets it back, before its confirm.
    fn give_back_unrouted(
        &mut self,
        number: u16,
        publish: &basic::Publish,
        properties: &PropertyList,
        body: Bytes,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let returned = basic::Return {
            reply_code: ReplyCode::NoRoute.code(),
            reply_text: ShortString::from_static(ReplyCode::NoRoute.name()),
            exchange: publish.exchange.clone(),
            routing_key: publish.routing_key.clone(),
        };
        encode_content(&mut Out(out), number, &returned, properties.as_bytes(), &[body], self.frame_max)
            .map_err(|error| Exception::new(ReplyCode::FrameError, error))
    }

    /// RabbitMQ: who says who it is has to be that.
    fn check_user(&self, properties: &PropertyList) -> Result<(), Exception> {
        let Some(claimed) = properties.user_id() else { return Ok(()) };
        let user = self.client.principal().name();
        if claimed.as_bytes() == user.as_bytes() {
            return Ok(());
        }
        let claimed = claimed.to_short_string();
        let text = format!("user_id property set to '{claimed}' but authenticated user was '{user}'");
        Err(Exception::new(ReplyCode::PreconditionFailed, text))
    }

    /// Direct reply-to: whoever answers needs the name of the queue.
    fn with_reply_queue(
        &mut self,
        number: u16,
        properties: &PropertyList,
    ) -> Result<PropertyList, Exception> {
        let Some(queue) = self.channel(number)?.reply_queue.clone() else {
            let text = "fast reply consumer does not exist";
            return Err(Exception::new(ReplyCode::PreconditionFailed, text));
        };
        let mut changed = decode(properties)?;
        changed.reply_to = Some(names::short(&queue.name));
        Ok(PropertyList::from(&changed))
    }
}

fn malformed(error: FieldError) -> Exception {
    Exception::new(error.reply_code(), format_args!("cannot decode the headers: {error}"))
}

fn decode(properties: &PropertyList) -> Result<BasicProperties, Exception> {
    properties.decode().map_err(malformed)
}

/// Also checks the headers, so that no consumer is sent what it cannot decode.
fn special_headers(properties: &PropertyList) -> Result<Special, Exception> {
    let mut special = Special::default();
    if properties.has_headers() {
        let note = |name: &[u8]| match name {
            b"CC" => special.copies = true,
            b"BCC" => special.blind_copies = true,
            b"x-delay" => special.delay = true,
            _ => {}
        };
        properties.check_headers(note).map_err(malformed)?;
    }
    Ok(special)
}

/// The keys under CC and BCC; the latter leave the message.
fn further_keys(properties: &mut PropertyList, special: Special) -> Result<Vec<Subject>, Exception> {
    let mut keys = Vec::new();
    if !special.copies && !special.blind_copies {
        return Ok(keys);
    }
    let mut changed = decode(properties)?;
    let Some(headers) = &mut changed.headers else { return Ok(keys) };
    for name in ["CC", "BCC"] {
        read_keys(name, headers, &mut keys)?;
    }
    if headers.remove("BCC") {
        *properties = PropertyList::from(&changed);
    }
    Ok(keys)
}

fn read_keys(name: &str, headers: &FieldTable, keys: &mut Vec<Subject>) -> Result<(), Exception> {
    let Some(value) = headers.get(name) else { return Ok(()) };
    let refused = |why: &dyn std::fmt::Display| {
        let text = format!("invalid message: {why}");
        Err(Exception::new(ReplyCode::PreconditionFailed, text))
    };
    let Some(values) = value.as_array() else {
        return refused(&format_args!("{{unacceptable_type_in_header,\"{name}\",{}}}", value.type_name()));
    };
    for value in values {
        let Some(key) = value.as_bytes().filter(|key| key.len() <= ShortString::OCTETS_MAX) else {
            return refused(&format_args!(
                "{name} has something else than routing keys of at most 255 octets"
            ));
        };
        match Subject::dotted(key.clone()) {
            Ok(key) => keys.push(key),
            Err(why) => return refused(&why),
        }
    }
    Ok(())
}

/// When the message expires. 0 would keep it from consumers that are ready for it.
fn expiry(properties: &PropertyList, from: Timestamp) -> Result<Option<Timestamp>, Exception> {
    let Some(text) = properties.expiration() else { return Ok(None) };
    let refused = |why: &dyn std::fmt::Display| {
        let text = format!("invalid expiration '{}': {why}", text.to_short_string());
        Err(Exception::new(ReplyCode::PreconditionFailed, text))
    };
    match text.as_str().ok().and_then(|text| text.parse::<i128>().ok()) {
        None => refused(&"no_integer"),
        Some(ms) if ms < 0 => refused(&format_args!("{{value_negative,{ms}}}")),
        Some(ms) if ms > EXPIRATION_MS_MAX => refused(&format_args!("{{value_too_large,{ms}}}")),
        Some(ms) => Ok(Some(from.plus_ms(u64::try_from(ms).unwrap_or(u64::MAX).max(1)))),
    }
}

/// Milliseconds under `x-delay`; as with the plugin, what is no number delays nothing.
fn delay(properties: &PropertyList) -> Result<Option<u64>, Exception> {
    let Some(headers) = properties.headers().map_err(malformed)? else { return Ok(None) };
    let ms = match headers.get("x-delay") {
        Some(FieldValue::LongString(text)) => std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()),
        Some(value) => value.as_i64(),
        None => None,
    };
    Ok(ms.filter(|ms| *ms > 0).map(|ms: i64| ms.min(DELAY_MS_MAX).cast_unsigned()))
}

/// Decodes the headers only if an exchange asks for them.
struct LazyHeaders<'a> {
    properties: &'a PropertyList,
    table: OnceCell<Option<FieldTable>>,
}

impl<'a> LazyHeaders<'a> {
    fn new(properties: &'a PropertyList) -> LazyHeaders<'a> {
        LazyHeaders { properties, table: OnceCell::new() }
    }
}

impl Headers for LazyHeaders<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        let table = self.table.get_or_init(|| self.properties.headers().ok().flatten());
        table.as_ref()?.get(name).cloned().map(to_value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(headers: &[(&'static str, FieldValue)], expiration: Option<&'static str>) -> PropertyList {
        let headers = headers.iter().map(|(name, value)| (ShortString::from_static(name), value.clone()));
        PropertyList::from(&BasicProperties {
            headers: Some(headers.collect()),
            expiration: expiration.map(ShortString::from_static),
            ..BasicProperties::default()
        })
    }

    #[test]
    fn expirations() {
        for (text, expect) in [
            (None, Ok(None)),
            (Some("60000"), Ok(Some(60_100))),
            (Some("0"), Ok(Some(101))),
            (Some(""), Err(())),
            (Some("-1"), Err(())),
            (Some("1.5"), Err(())),
            (Some("99999999999999999999"), Err(())),
        ] {
            let found = expiry(&list(&[], text), Timestamp(100)).map(|at| at.map(|at| at.0)).map_err(|_| ());
            assert_eq!(found, expect, "{text:?}");
        }
    }

    #[test]
    fn blind_copies_leave_the_message() {
        let mut properties = list(
            &[("CC", vec!["a".into()].into()), ("BCC", vec!["b".into(), "c".into()].into()), ("n", 1.into())],
            None,
        );
        let special = special_headers(&properties).unwrap();
        assert_eq!(special, Special { copies: true, blind_copies: true, delay: false });
        let keys = further_keys(&mut properties, special).unwrap();
        assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a", "b", "c"]);
        let headers = properties.headers().unwrap().unwrap();
        assert!(headers.contains("CC") && headers.contains("n") && !headers.contains("BCC"));
        let mut wrong = list(&[("CC", "a".into())], None);
        let error = further_keys(&mut wrong, Special { copies: true, ..Special::default() }).unwrap_err();
        assert_eq!(error.reply_code, ReplyCode::PreconditionFailed);
    }

    #[test]
    fn delays() {
        for (value, expect) in [
            (Some(FieldValue::from(1_500)), Some(1_500)),
            (Some("250".into()), Some(250)),
            (Some("soon".into()), None),
            (Some((-5).into()), None),
            (Some(i64::MAX.into()), Some(u64::from(u32::MAX))),
            (None, None),
        ] {
            let headers: Vec<_> = value.clone().map(|value| ("x-delay", value)).into_iter().collect();
            assert_eq!(delay(&list(&headers, None)).unwrap(), expect, "{value:?}");
        }
    }
}
