//! What `queue.bind` and `exchange.bind` have in common.

use crate::{
    convert::to_value,
    wire::{Exception, FieldTable, FieldValue, ReplyCode, ShortString},
};
use bytes::Bytes;
use posthaste_engine::catalog::{Binding, ExchangeKind, Matching, Rule, Target};
use posthaste_model::{Pattern, Syntax};

/// # Errors
/// PRECONDITION_FAILED for a key or arguments that can match nothing.
pub(super) fn binding(
    kind: ExchangeKind,
    target: Target,
    routing_key: &ShortString,
    arguments: &FieldTable,
) -> Result<Binding, Exception> {
    let rule = match kind {
        ExchangeKind::Fanout => Rule::All,
        ExchangeKind::Headers => headers_rule(arguments)?,
        ExchangeKind::Direct => Rule::Exact(Bytes::copy_from_slice(text(routing_key)?.as_bytes())),
        ExchangeKind::Topic => {
            let parsed = Pattern::parse(text(routing_key)?, Syntax::DOTTED);
            Rule::Pattern(parsed.map_err(|why| Exception::new(ReplyCode::PreconditionFailed, why))?)
        }
    };
    let (key, arguments) = identity(routing_key, arguments);
    Ok(Binding { target, key, rule, arguments, durable: true, transient: false })
}

/// What tells two bindings with the same ends apart: the key, and the arguments in the order of their names.
pub(super) fn identity(routing_key: &ShortString, arguments: &FieldTable) -> (Bytes, Bytes) {
    let mut fields: Vec<_> = arguments.iter().cloned().collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    let arguments: FieldTable = fields.into_iter().collect();
    (Bytes::copy_from_slice(routing_key.as_bytes()), arguments.encode())
}

fn text(routing_key: &ShortString) -> Result<&str, Exception> {
    let not_utf8 = |_| Exception::new(ReplyCode::PreconditionFailed, "the routing key is not UTF-8");
    routing_key.as_str().map_err(not_utf8)
}

fn headers_rule(arguments: &FieldTable) -> Result<Rule, Exception> {
    let (matching, with_x) = match arguments.get("x-match") {
        None => (Matching::All, false),
        Some(value) => match value.as_str() {
            Some("all") => (Matching::All, false),
            Some("any") => (Matching::Any, false),
            Some("all-with-x") => (Matching::All, true),
            Some("any-with-x") => (Matching::Any, true),
            _ => {
                let text = format!(
                    "Invalid x-match field value <<\"{value}\">>; expected all, any, all-with-x, or \
                         any-with-x"
                );
                return Err(Exception::new(ReplyCode::PreconditionFailed, text));
            }
        },
    };
    let wanted = arguments.iter().filter(|(name, _)| {
        let is_special = name.as_bytes().starts_with(b"x-");
        *name != "x-match" && (with_x || !is_special)
    });
    let wanted = wanted.map(|(name, value)| match value {
        // To be there is enough.
        FieldValue::Void => (name.to_string(), None),
        value => (name.to_string(), Some(to_value(value.clone()))),
    });
    Ok(Rule::Headers { matching, wanted: wanted.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_model::{Name, Value};

    fn rule(arguments: &[(&'static str, FieldValue)]) -> Result<Rule, ReplyCode> {
        let table: FieldTable =
            arguments.iter().map(|(name, value)| (ShortString::from_static(name), value.clone())).collect();
        headers_rule(&table).map_err(|e| e.reply_code)
    }

    #[test]
    fn headers_rules() {
        let headers = |matching, wanted: &[(&str, Option<Value>)]| {
            let wanted = wanted.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            Ok(Rule::Headers { matching, wanted })
        };
        let n = ("n", FieldValue::from(3));
        let x = ("x-n", FieldValue::Void);
        let is_n = ("n", Some(Value::Int(3)));
        for (arguments, expect) in [
            (vec![], headers(Matching::All, &[])),
            (vec![n.clone(), x.clone()], headers(Matching::All, std::slice::from_ref(&is_n))),
            (
                vec![("x-match", "any".into()), n.clone(), x.clone()],
                headers(Matching::Any, std::slice::from_ref(&is_n)),
            ),
            (vec![("x-match", "any-with-x".into()), n, x], headers(Matching::Any, &[is_n, ("x-n", None)])),
            (vec![("x-match", "some".into())], Err(ReplyCode::PreconditionFailed)),
            (vec![("x-match", 1.into())], Err(ReplyCode::PreconditionFailed)),
        ] {
            assert_eq!(rule(&arguments), expect, "{arguments:?}");
        }
    }

    #[test]
    fn the_order_of_arguments_makes_no_other_binding() {
        let table = |names: [&'static str; 2]| -> FieldTable {
            names.iter().map(|name| (ShortString::from_static(name), FieldValue::from(1))).collect()
        };
        let key = ShortString::from_static("k");
        assert_eq!(identity(&key, &table(["a", "b"])), identity(&key, &table(["b", "a"])));
    }

    #[test]
    fn keys_that_are_no_text_are_refused_where_they_matter() {
        let key = ShortString::new(Bytes::from_static(b"\xff")).unwrap();
        let bind = |kind| binding(kind, Target::Queue(Name::constant("q")), &key, &FieldTable::new());
        assert!(bind(ExchangeKind::Direct).is_err() && bind(ExchangeKind::Topic).is_err());
        assert!(bind(ExchangeKind::Fanout).is_ok());
    }
}
