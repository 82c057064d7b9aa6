//! What there is: every path, its methods, and the operation behind each. The one list.

use hyper::Method;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    CreateAccessKey,
    CreateBinding,
    CreateExchange,
    CreateNamespace,
    CreateQueue,
    CreateTopic,
    CreateUser,
    CreateUserGroup,
    ChangeNamespace,
    ChangeQueue,
    ChangeTopic,
    DeleteAccessKey,
    DeleteBinding,
    DeleteExchange,
    DeleteGroup,
    DeleteNamespace,
    DeleteQueue,
    DeleteTopic,
    DeleteUser,
    DeleteUserGroup,
    DescribeExchange,
    DescribeGroup,
    DescribeNamespace,
    DescribeQueue,
    DescribeTopic,
    DescribeUser,
    DescribeUserGroup,
    Health,
    ListBindings,
    ListExchanges,
    ListGroups,
    ListNamespaces,
    ListQueues,
    ListTopics,
    ListUserGroups,
    ListUsers,
    Metrics,
    PublishToExchange,
    PublishToQueue,
    PublishToTopic,
    PurgeQueue,
    PutUser,
    PutUserGroup,
    ReadTopic,
    Readiness,
    Status,
    StreamQueue,
    StreamSubject,
    StreamTopic,
    TakeFromQueue,
}

impl Operation {
    /// Answered to anybody.
    pub fn is_public(self) -> bool {
        matches!(self, Operation::Health | Operation::Readiness)
    }

    /// Answered until the client hangs up.
    pub fn is_stream(self) -> bool {
        matches!(self, Operation::StreamQueue | Operation::StreamSubject | Operation::StreamTopic)
    }

    /// Changes nothing: what a browser may be made to ask for by any page, and so all that GET may be.
    pub const fn is_safe(self) -> bool {
        use Operation as O;
        match self {
            O::DescribeExchange
            | O::DescribeGroup
            | O::DescribeNamespace
            | O::DescribeQueue
            | O::DescribeTopic
            | O::DescribeUser
            | O::DescribeUserGroup
            | O::Health
            | O::ListBindings
            | O::ListExchanges
            | O::ListGroups
            | O::ListNamespaces
            | O::ListQueues
            | O::ListTopics
            | O::ListUserGroups
            | O::ListUsers
            | O::Metrics
            | O::ReadTopic
            | O::Readiness
            | O::Status
            | O::StreamTopic => true,
            O::CreateAccessKey
            | O::CreateBinding
            | O::CreateExchange
            | O::CreateNamespace
            | O::CreateQueue
            | O::CreateTopic
            | O::CreateUser
            | O::CreateUserGroup
            | O::ChangeNamespace
            | O::ChangeQueue
            | O::ChangeTopic
            | O::DeleteAccessKey
            | O::DeleteBinding
            | O::DeleteExchange
            | O::DeleteGroup
            | O::DeleteNamespace
            | O::DeleteQueue
            | O::DeleteTopic
            | O::DeleteUser
            | O::DeleteUserGroup
            | O::PublishToExchange
            | O::PublishToQueue
            | O::PublishToTopic
            | O::PurgeQueue
            | O::PutUser
            | O::PutUserGroup
            // They take messages, or make a queue to listen with.
            | O::StreamQueue
            | O::StreamSubject
            | O::TakeFromQueue => false,
        }
    }

    pub fn publishes(self) -> bool {
        use Operation as O;
        matches!(self, O::PublishToExchange | O::PublishToQueue | O::PublishToTopic)
    }
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    Operation(Operation, Vec<&'a str>),
    /// The methods that the path has, as in the header `Allow`.
    OtherMethods(String),
    Nothing,
}

type Methods = &'static [(Method, Operation)];

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

/// `*` stands for one segment, a name.
pub const ROUTES: &[(&str, Methods)] = {
    use Operation as O;
    &[
        ("/healthz", &[(GET, O::Health)]),
        ("/readyz", &[(GET, O::Readiness)]),
        ("/metrics", &[(GET, O::Metrics)]),
        ("/v1/status", &[(GET, O::Status)]),
        ("/v1/namespaces", &[(GET, O::ListNamespaces), (POST, O::CreateNamespace)]),
        (
            "/v1/namespaces/*",
            &[(GET, O::DescribeNamespace), (PATCH, O::ChangeNamespace), (DELETE, O::DeleteNamespace)],
        ),
        ("/v1/topics", &[(GET, O::ListTopics), (POST, O::CreateTopic)]),
        ("/v1/topics/*", &[(GET, O::DescribeTopic), (PATCH, O::ChangeTopic), (DELETE, O::DeleteTopic)]),
        ("/v1/topics/*/messages", &[(GET, O::ReadTopic), (POST, O::PublishToTopic)]),
        ("/v1/topics/*/stream", &[(GET, O::StreamTopic)]),
        ("/v1/queues", &[(GET, O::ListQueues), (POST, O::CreateQueue)]),
        ("/v1/queues/*", &[(GET, O::DescribeQueue), (PATCH, O::ChangeQueue), (DELETE, O::DeleteQueue)]),
        ("/v1/queues/*/messages", &[(POST, O::PublishToQueue), (DELETE, O::PurgeQueue)]),
        ("/v1/queues/*/get", &[(POST, O::TakeFromQueue)]),
        ("/v1/queues/*/stream", &[(POST, O::StreamQueue)]),
        ("/v1/exchanges", &[(GET, O::ListExchanges), (POST, O::CreateExchange)]),
        ("/v1/exchanges/*", &[(GET, O::DescribeExchange), (DELETE, O::DeleteExchange)]),
        ("/v1/exchanges/*/messages", &[(POST, O::PublishToExchange)]),
        ("/v1/bindings", &[(GET, O::ListBindings), (POST, O::CreateBinding), (DELETE, O::DeleteBinding)]),
        ("/v1/users", &[(GET, O::ListUsers), (POST, O::CreateUser)]),
        ("/v1/users/*", &[(GET, O::DescribeUser), (PUT, O::PutUser), (DELETE, O::DeleteUser)]),
        ("/v1/users/*/access-keys", &[(POST, O::CreateAccessKey)]),
        ("/v1/users/*/access-keys/*", &[(DELETE, O::DeleteAccessKey)]),
        ("/v1/user-groups", &[(GET, O::ListUserGroups), (POST, O::CreateUserGroup)]),
        (
            "/v1/user-groups/*",
            &[(GET, O::DescribeUserGroup), (PUT, O::PutUserGroup), (DELETE, O::DeleteUserGroup)],
        ),
        ("/v1/groups", &[(GET, O::ListGroups)]),
        ("/v1/groups/*", &[(GET, O::DescribeGroup), (DELETE, O::DeleteGroup)]),
        ("/v1/subjects/stream", &[(POST, O::StreamSubject)]),
    ]
};

// An operation that changes something and is reached by GET does not compile.
const _: () = {
    let mut paths = ROUTES;
    while let [(_, methods), more @ ..] = paths {
        let mut methods = *methods;
        while let [(method, operation), more @ ..] = methods {
            assert!(operation.is_safe() || !matches!(*method, Method::GET), "GET changes something");
            methods = more;
        }
        paths = more;
    }
};

/// Every path, with `*` for a name, and its methods: for tests that are to miss none.
#[doc(hidden)]
pub fn paths() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().flat_map(|(path, methods)| methods.iter().map(|(method, _)| (method.as_str(), *path)))
}

/// Looks a request up. The names are as they stand in the path, percent-encoded.
pub fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let Some((names, methods)) =
        ROUTES.iter().find_map(|(pattern, methods)| names_in(path, pattern).map(|names| (names, methods)))
    else {
        return Found::Nothing;
    };
    let wanted = if *method == Method::HEAD { &GET } else { method };
    let found = methods.iter().find(|(m, _)| m == wanted).map(|(_, operation)| *operation);
    match found {
        Some(operation) if *method != Method::HEAD || !operation.is_stream() => {
            Found::Operation(operation, names)
        }
        _ => {
            let mut allowed: Vec<&str> = methods.iter().map(|(m, _)| m.as_str()).collect();
            if methods.iter().any(|(m, o)| *m == GET && !o.is_stream()) {
                allowed.push("HEAD");
            }
            Found::OtherMethods(allowed.join(", "))
        }
    }
}

fn names_in<'a>(path: &'a str, pattern: &str) -> Option<Vec<&'a str>> {
    let mut names = Vec::new();
    let mut segments = path.split('/');
    for word in pattern.split('/') {
        let segment = segments.next()?;
        match word {
            "*" if !segment.is_empty() => names.push(segment),
            "*" => return None,
            literal if literal == segment => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let operation = |operation, names: &[&'static str]| Found::Operation(operation, names.to_vec());
        for (method, path, expect) in [
            (GET, "/healthz", operation(Operation::Health, &[])),
            (Method::HEAD, "/healthz", operation(Operation::Health, &[])),
            (POST, "/healthz", Found::OtherMethods("GET, HEAD".to_owned())),
            (GET, "/v1/topics/a%2Fb", operation(Operation::DescribeTopic, &["a%2Fb"])),
            (GET, "/v1/topics/messages/messages", operation(Operation::ReadTopic, &["messages"])),
            (GET, "/v1/topics/", Found::Nothing),
            (GET, "/v1/topics//messages", Found::Nothing),
            (GET, "/v1/topics/a/b/c", Found::Nothing),
            (GET, "/v2/topics", Found::Nothing),
            (GET, "/v1/queues/q/get", Found::OtherMethods("POST".to_owned())),
            (GET, "/v1/queues/q/stream", Found::OtherMethods("POST".to_owned())),
            (Method::HEAD, "/v1/queues/q/stream", Found::OtherMethods("POST".to_owned())),
            (Method::HEAD, "/v1/topics/t/stream", Found::OtherMethods("GET".to_owned())),
        ] {
            assert_eq!(find(&method, path), expect, "{method} {path}");
        }
    }

    #[test]
    fn every_path_is_documented() {
        let text = include_str!("../../../docs/http-api.md");
        for (path, methods) in ROUTES {
            let shown = path.replace("access-keys/*", "access-keys/{id}").replace("/*", "/{name}");
            for (method, _) in *methods {
                assert!(text.contains(&format!("`{method} {shown}`")), "{method} {shown}");
            }
        }
    }
}
