//! Permissions as people write them.

use posthaste_broker::engine::catalog::{Action, Permission, Resource};

/// Reads `ACTIONS:KIND:NAME[@NAMESPACE]`, such as `read,write:topic:orders*`.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(text: &str) -> Result<Permission, String> {
    let wrong = || format!("'{text}' is not ACTIONS:KIND:NAME, such as read,write:topic:orders*");
    let mut parts = text.splitn(3, ':');
    let (Some(actions), Some(kind), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let (name, namespace) = rest.rsplit_once('@').unwrap_or((rest, "*"));
    Ok(Permission {
        namespace: namespace.to_owned(),
        resource: resource(kind)?,
        name: name.to_owned(),
        actions: actions.split(',').map(action).collect::<Result<_, _>>()?,
    })
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "configure" => Ok(Action::Configure),
        "read" => Ok(Action::Read),
        "write" => Ok(Action::Write),
        _ => Err(format!("'{text}' is no action; there are configure, read and write")),
    }
}

fn resource(text: &str) -> Result<Option<Resource>, String> {
    match text {
        "any" => Ok(None),
        "exchange" => Ok(Some(Resource::Exchange)),
        "group" => Ok(Some(Resource::Group)),
        "namespace" => Ok(Some(Resource::Namespace)),
        "queue" => Ok(Some(Resource::Queue)),
        "subject" => Ok(Some(Resource::Subject)),
        "topic" => Ok(Some(Resource::Topic)),
        _ => Err(format!(
            "'{text}' is no kind of thing; there are exchange, group, namespace, queue, subject, topic and any"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions() {
        let permission = |namespace: &str, resource, name: &str, actions: &[Action]| {
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Ok(Permission { namespace, resource, name, actions: actions.to_vec() })
        };
        let both = [Action::Read, Action::Write];
        assert_eq!(parse("read,write:topic:a:b*"), permission("*", Some(Resource::Topic), "a:b*", &both));
        assert_eq!(parse("configure:any:*@shop"), permission("shop", None, "*", &[Action::Configure]));
        for (text, names) in [
            ("read", "ACTIONS:KIND:NAME"),
            ("read:topic", "ACTIONS:KIND:NAME"),
            (":topic:a", "''"),
            ("look:topic:a", "'look'"),
            ("read:table:a", "'table'"),
        ] {
            assert!(parse(text).unwrap_err().contains(names), "{text}");
        }
    }
}
