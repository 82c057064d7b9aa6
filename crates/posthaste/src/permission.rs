//! Permissions as people write them.

use posthaste_broker::engine::catalog::{Action, Effect, NamePattern, Permission, Resource};

/// Reads `[deny:]ACTIONS:KIND:NAME[@NAMESPACE][ through EXCHANGE][ from ADDRESS]`, such as
/// `read,write:topic:orders*` or `write:subject:eu.# through orders`. A name is
/// `literal=TEXT`, `prefix=TEXT`, `regex=EXPRESSION` or a text in which `*` stands for any.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(text: &str) -> Result<Permission, String> {
    let wrong = || format!("'{text}' is not ACTIONS:KIND:NAME, such as read,write:topic:orders*");
    let (effect, rest) = match text.strip_prefix("deny:") {
        Some(rest) => (Effect::Deny, rest),
        None => (Effect::Allow, text),
    };
    let (rest, from) = match rest.rsplit_once(" from ") {
        Some((rest, network)) => (rest, Some(Permission::parse_network(network)?)),
        None => (rest, None),
    };
    let (rest, exchange) = match rest.rsplit_once(" through ") {
        Some((rest, exchange)) => (rest, Some(pattern(exchange)?)),
        None => (rest, None),
    };
    let mut parts = rest.splitn(3, ':');
    let (Some(actions), Some(kind), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let (name, namespace) = rest.rsplit_once('@').unwrap_or((rest, "*"));
    let resource = resource(kind)?;
    if exchange.is_some() && resource != Some(Resource::Subject) {
        return Err(format!("'{text}': only subjects pass through an exchange; write ACTIONS:subject:NAME"));
    }
    Ok(Permission {
        effect,
        namespace: NamePattern::glob(namespace),
        resource,
        name: pattern(name)?,
        exchange,
        actions: actions.split(',').map(action).collect::<Result<_, _>>()?,
        from,
    })
}

/// As [`parse`], of what is denied.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_denied(text: &str) -> Result<Permission, String> {
    parse(text).map(Permission::denied)
}

fn pattern(text: &str) -> Result<NamePattern, String> {
    match text.split_once('=') {
        Some(("literal", name)) => Ok(NamePattern::Literal(name.to_owned())),
        Some(("prefix", name)) => Ok(NamePattern::Prefix(name.to_owned())),
        Some(("regex", expression)) => NamePattern::regex(expression),
        _ => Ok(NamePattern::glob(text)),
    }
}

fn action(text: &str) -> Result<Action, String> {
    let found = Action::ALL.iter().find(|(_, word)| *word == text);
    found.map(|(action, _)| *action).ok_or_else(|| {
        let words: Vec<&str> = Action::ALL.iter().map(|(_, word)| *word).collect();
        format!("'{text}' is no action; there are {}", words.join(", "))
    })
}

fn resource(text: &str) -> Result<Option<Resource>, String> {
    if text == "any" {
        return Ok(None);
    }
    let found = Resource::ALL.iter().find(|(_, word)| *word == text);
    found.map(|(resource, _)| Some(*resource)).ok_or_else(|| {
        let words: Vec<&str> = Resource::ALL.iter().map(|(_, word)| *word).collect();
        format!("'{text}' is no kind of thing; there are {} and any", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions() {
        let allow = |actions: &[Action], resource, name| Permission {
            resource,
            ..Permission::allow(actions, Resource::Topic, name)
        };
        let both = [Action::Read, Action::Write];
        assert_eq!(parse("read,write:topic:a:b*"), Ok(allow(&both, Some(Resource::Topic), "a:b*")));
        let in_shop =
            Permission { namespace: NamePattern::glob("shop"), ..allow(&[Action::Configure], None, "*") };
        assert_eq!(parse("configure:any:*@shop"), Ok(in_shop));
        let denied = allow(&[Action::Describe], Some(Resource::Queue), "x").denied();
        let network = Permission::parse_network("10.0.0.0/8").ok();
        let far = Permission { from: network, name: NamePattern::regex("^a@b$").unwrap(), ..denied.clone() };
        assert_eq!(parse("deny:describe:queue:x"), Ok(denied.clone()));
        assert_eq!(parse_denied("describe:queue:x"), Ok(denied));
        assert_eq!(parse("deny:describe:queue:regex=^a@b$@* from 10.9.9.9/8"), Ok(far));
        let through = Permission {
            exchange: Some(NamePattern::glob("x*")),
            ..allow(&[Action::Write], Some(Resource::Subject), "eu.*")
        };
        assert_eq!(parse("write:subject:eu.* through x*"), Ok(through.clone()));
        let far = Permission { from: network, ..through };
        assert_eq!(parse("write:subject:eu.* through x* from 10.0.0.0/8"), Ok(far));
        for (text, names) in [
            ("read", "ACTIONS:KIND:NAME"),
            ("read:topic", "ACTIONS:KIND:NAME"),
            (":topic:a", "''"),
            ("look:topic:a", "'look'"),
            ("read:table:a", "'table'"),
            ("read:topic:regex=(", "regular expression"),
            ("read:topic:a from here", "'here'"),
            ("write:topic:a through x", "only subjects"),
        ] {
            assert!(parse(text).unwrap_err().contains(names), "{text}");
        }
    }
}
