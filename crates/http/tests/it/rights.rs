//! Rights by table: every operation times every person has a stated answer; one without an answer fails.

use crate::support::*;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use posthaste_broker::{TokenAlgorithm, TokenIssuer};
use posthaste_engine::{catalog::Topic, event::CommittedOffset};
use posthaste_model::{Name, Timestamp};
use serde_json::{Value as Json, json};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// In the order of a row's answers. The owner may do everything with `mine*` of every kind, the reader only
/// read, the writer only write. Permissions of a stranger match nothing that is there; the revoked one was an
/// owner until after it had connected; the other tenant is an owner, but of the namespace `other`.
const PERSONS: [&str; 6] = ["owner", "reader", "writer", "stranger", "revoked", "tenant"];

const SECRET: &[u8] = b"a secret that the issuer and the broker share";

/// A request, its body, and the status for each person. 403 says `denied`.
type Row = (&'static str, &'static str, [u16; 6]);

/// Whatever can be named is called `mine`, what a request makes anew `mine.new`. `secret` is nobody's.
const TABLE: &[Row] = &[
    ("GET /healthz", "", [200, 200, 200, 200, 200, 200]),
    ("GET /readyz", "", [200, 200, 200, 200, 200, 200]),
    // Lists hold what the person may see: `LISTS`.
    ("GET /metrics", "", [200, 200, 200, 200, 200, 200]),
    ("GET /v1/status", "", [200, 200, 200, 200, 200, 200]),
    ("GET /v1/namespaces", "", [200, 200, 200, 200, 200, 200]),
    ("POST /v1/namespaces", r#"{"name": "mine.new"}"#, [201, 403, 403, 403, 403, 403]),
    ("POST /v1/namespaces?namespace=other", r#"{"name": "mine.new"}"#, [201, 403, 403, 403, 403, 403]),
    ("GET /v1/namespaces/mine", "", [200, 200, 200, 403, 403, 403]),
    ("GET /v1/namespaces/mine?namespace=other", "", [200, 200, 200, 403, 403, 403]),
    ("PATCH /v1/namespaces/mine", "{}", [403; 6]),
    ("PATCH /v1/namespaces/mine", r#"{"limits": {"objects": 1}}"#, [403; 6]),
    ("POST /v1/namespaces", r#"{"name": "mine.new", "limits": {"objects": 1}}"#, [403; 6]),
    ("DELETE /v1/namespaces/mine", "", [204, 403, 403, 403, 403, 403]),
    ("DELETE /v1/namespaces/mine?namespace=other", "", [204, 403, 403, 403, 403, 403]),
    ("GET /v1/topics", "", [200, 200, 200, 200, 200, 200]),
    ("POST /v1/topics", r#"{"name": "mine.new"}"#, [201, 403, 403, 403, 403, 403]),
    ("POST /v1/topics", r##"{"name": "mine.new", "captures": ["mine.#"]}"##, [201, 403, 403, 403, 403, 403]),
    ("POST /v1/topics", r##"{"name": "mine.new", "captures": ["#"]}"##, [403; 6]),
    ("GET /v1/topics/mine", "", [200, 200, 200, 403, 403, 403]),
    ("PATCH /v1/topics/mine", "{}", [200, 403, 403, 403, 403, 403]),
    ("PATCH /v1/topics/mine", r#"{"partitions": 2}"#, [200, 403, 403, 403, 403, 403]),
    ("PATCH /v1/topics/mine", r##"{"captures": ["mine.#"]}"##, [200, 403, 403, 403, 403, 403]),
    ("PATCH /v1/topics/mine", r##"{"captures": ["#"]}"##, [403; 6]),
    ("DELETE /v1/topics/mine", "", [204, 403, 403, 403, 403, 403]),
    ("GET /v1/topics/mine/messages", "", [200, 200, 403, 403, 403, 403]),
    ("POST /v1/topics/mine/messages", r#"{"body": "x"}"#, [200, 403, 200, 403, 403, 403]),
    ("GET /v1/topics/mine/stream", "", [200, 200, 403, 403, 403, 403]),
    ("GET /v1/queues", "", [200, 200, 200, 200, 200, 200]),
    ("POST /v1/queues", r#"{"name": "mine.new"}"#, [201, 403, 403, 403, 403, 403]),
    (
        "POST /v1/queues",
        r#"{"name": "mine.new", "dead_letter": {"exchange": "mine"}}"#,
        [201, 403, 403, 403, 403, 403],
    ),
    ("POST /v1/queues", r#"{"name": "mine.new", "dead_letter": {"exchange": "secret"}}"#, [403; 6]),
    ("GET /v1/queues/mine", "", [200, 200, 200, 403, 403, 403]),
    ("PATCH /v1/queues/mine", "{}", [200, 403, 403, 403, 403, 403]),
    ("PATCH /v1/queues/mine", r#"{"ttl_ms": 1000000}"#, [200, 403, 403, 403, 403, 403]),
    ("PATCH /v1/queues/mine", r#"{"dead_letter": {"exchange": "mine"}}"#, [200, 403, 403, 403, 403, 403]),
    ("PATCH /v1/queues/mine", r#"{"dead_letter": {"exchange": "secret"}}"#, [403; 6]),
    ("DELETE /v1/queues/mine", "", [200, 403, 403, 403, 403, 403]),
    ("POST /v1/queues/mine/messages", r#"{"body": "x"}"#, [200, 403, 200, 403, 403, 403]),
    ("DELETE /v1/queues/mine/messages", "", [200, 200, 403, 403, 403, 403]),
    ("POST /v1/queues/mine/get", "{}", [200, 200, 403, 403, 403, 403]),
    ("POST /v1/queues/mine/stream", "{}", [200, 200, 403, 403, 403, 403]),
    ("GET /v1/exchanges", "", [200, 200, 200, 200, 200, 200]),
    ("POST /v1/exchanges", r#"{"name": "mine.new"}"#, [201, 403, 403, 403, 403, 403]),
    ("POST /v1/exchanges", r#"{"name": "mine.new", "alternate": "mine"}"#, [201, 403, 403, 403, 403, 403]),
    ("POST /v1/exchanges", r#"{"name": "mine.new", "alternate": "secret"}"#, [403; 6]),
    ("GET /v1/exchanges/mine", "", [200, 200, 200, 403, 403, 403]),
    ("DELETE /v1/exchanges/mine", "", [204, 403, 403, 403, 403, 403]),
    ("POST /v1/exchanges/mine/messages", r#"{"subject": "any"}"#, [200, 403, 200, 403, 403, 403]),
    ("POST /v1/exchanges/amq.topic/messages", r#"{"subject": "mine.x"}"#, [200, 403, 200, 403, 403, 403]),
    ("POST /v1/exchanges/amq.topic/messages", r#"{"subject": "secret"}"#, [403; 6]),
    ("POST /v1/exchanges/amq.topic/messages", r#"[{"subject": "mine.x"}, {"subject": "secret"}]"#, [403; 6]),
    ("GET /v1/bindings", "", [200, 200, 200, 200, 200, 200]),
    (
        "POST /v1/bindings",
        r#"{"exchange": "mine", "queue": "mine", "key": "k"}"#,
        [201, 403, 403, 403, 403, 403],
    ),
    ("POST /v1/bindings", r#"{"exchange": "mine", "queue": "secret"}"#, [403; 6]),
    ("POST /v1/bindings", r#"{"exchange": "mine", "to_exchange": "secret"}"#, [403; 6]),
    ("POST /v1/bindings", r#"{"exchange": "amq.topic", "queue": "mine", "key": "secret"}"#, [403; 6]),
    ("DELETE /v1/bindings?exchange=mine&queue=mine", "", [204, 403, 403, 403, 403, 403]),
    ("GET /v1/users", "", [403; 6]),
    ("POST /v1/users", r#"{"name": "mine.new", "password": "x"}"#, [403; 6]),
    ("GET /v1/users/mine", "", [403; 6]),
    // Everybody sees themselves.
    ("GET /v1/users/owner", "", [200, 403, 403, 403, 403, 403]),
    ("GET /v1/users/revoked", "", [403, 403, 403, 403, 200, 403]),
    ("PUT /v1/users/mine", r#"{"password": "x"}"#, [403; 6]),
    ("PUT /v1/users/owner", r#"{"administrator": true}"#, [403; 6]),
    ("DELETE /v1/users/mine", "", [403; 6]),
    ("POST /v1/users/owner/access-keys", "{}", [403; 6]),
    ("DELETE /v1/users/owner/access-keys/mine", "", [403; 6]),
    ("GET /v1/user-groups", "", [403; 6]),
    ("POST /v1/user-groups", r#"{"name": "mine.new"}"#, [403; 6]),
    ("GET /v1/user-groups/mine", "", [403; 6]),
    ("PUT /v1/user-groups/mine", r#"{"administrator": true}"#, [403; 6]),
    ("DELETE /v1/user-groups/mine", "", [403; 6]),
    ("GET /v1/groups", "", [200, 200, 200, 200, 200, 200]),
    ("GET /v1/groups/mine", "", [200, 200, 403, 403, 403, 403]),
    ("DELETE /v1/groups/mine", "", [204, 403, 403, 403, 403, 403]),
    ("POST /v1/subjects/stream", r##"{"pattern": "mine.#"}"##, [200, 200, 403, 403, 403, 403]),
    ("POST /v1/subjects/stream", r##"{"pattern": "#"}"##, [403; 6]),
];

/// A list's content where the person sees `mine`, and the persons that do.
const LISTS: &[(&str, &str, [bool; 6])] = &[
    ("GET /metrics", r#"topic="mine""#, [true, true, true, false, false, false]),
    ("GET /metrics", r#"queue="mine""#, [true, true, true, false, false, false]),
    ("GET /v1/namespaces", r#""name":"mine""#, [true, true, true, false, false, false]),
    ("GET /v1/namespaces?namespace=other", r#""name":"mine""#, [true, true, true, false, false, false]),
    ("GET /v1/topics", r#""name":"mine""#, [true, true, true, false, false, false]),
    ("GET /v1/queues", r#""name":"mine""#, [true, true, true, false, false, false]),
    ("GET /v1/exchanges", r#""name":"mine""#, [true, true, true, false, false, false]),
    ("GET /v1/bindings", r#""exchange":"mine""#, [true, true, true, false, false, false]),
    ("GET /v1/groups", r#""name":"mine""#, [true, true, false, false, false, false]),
];

#[test]
fn no_operation_is_missing() {
    for (method, path) in posthaste_http::paths() {
        let stated = TABLE.iter().any(|(request, ..)| {
            let (m, p) = split(request);
            m == method && leads_to(p.split('?').next().unwrap(), path)
        });
        assert!(stated, "{method} {path} has no answer in TABLE");
        let lists = method == "GET" && (path == "/metrics" || is_list(path));
        let listed = LISTS.iter().any(|(request, ..)| split(request) == (method, path));
        // Users and groups of users are listed for administrators only.
        let for_administrators = matches!(path, "/v1/users" | "/v1/user-groups");
        assert!(!lists || listed || for_administrators, "{method} {path} is not in LISTS");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_by_every_person() {
    let (f, mut revoked) = world().await;
    for (request, body, answers) in TABLE {
        for (person, status) in PERSONS.into_iter().zip(*answers) {
            let response = ask(&f, &mut revoked, person, request, body).await;
            check(&response, status, &format!("{person}: {request} {body}"));
            assert!(status == 403 || !response.text.contains("secret"), "{person} {request}: {response:?}");
            if status < 300 && !request.starts_with("GET") {
                reset(&f).await;
            }
            // A person without any right does not learn whether it is there either.
            if request.contains("/mine") && ["stranger", "revoked", "tenant"].contains(&person) {
                let absent = |text: &str| text.replace("mine", "mine.none");
                let (request, body) = (absent(request), absent(body));
                let response = ask(&f, &mut revoked, person, &request, &body).await;
                check(&response, 403, &format!("{person}: {request} {body}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_hold_what_the_person_sees() {
    let (f, mut revoked) = world().await;
    for (request, mine, answers) in LISTS {
        for (person, sees) in PERSONS.into_iter().zip(*answers) {
            let response = ask(&f, &mut revoked, person, request, "").await;
            check(&response, 200, request);
            assert_eq!(response.text.contains(mine), sees, "{person}: {request}: {}", response.text);
            assert!(!response.text.contains("secret"), "{person}: {request}: {}", response.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_afar_nobody_is_let_in_without_a_user_of_its_own() {
    let f = Fixture::new().await;
    let guest = basic("guest", "guest");
    // Known by now, so that no failure has to be waited for.
    assert_eq!(f.connect().await.request("GET", "/v1/status", None, &guest).await.status, 200);
    for (request, body, _) in TABLE {
        let (method, path) = split(request);
        let is_public = matches!(path, "/healthz" | "/readyz");
        for headers in ["", &guest] {
            let mut connection = f.connect_from_afar().await;
            let response = connection.request(method, path, parsed(body), headers).await;
            check(&response, if is_public { 200 } else { 401 }, request);
        }
    }
}

/// With a token of the owner, whom it would serve.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused_whatever_is_asked() {
    let (f, _) = world().await;
    let issuer = TokenIssuer {
        issuer: "id".to_owned(),
        audiences: vec!["posthaste".to_owned()],
        user_claim: "sub".to_owned(),
        groups_claim: None,
        algorithms: vec![TokenAlgorithm::HS256],
        clock_skew: Duration::ZERO,
        read_keys: Arc::new(|| Ok(SECRET.to_vec())),
        minimal_tokens: false,
    };
    f.broker.set_token_issuers(vec![issuer]).unwrap();
    f.broker.read_token_keys("id").await.unwrap();
    let bearer = |seconds: f64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let claims = json!({"iss": "id", "aud": "posthaste", "sub": "owner", "exp": now + seconds});
        let key = EncodingKey::from_secret(SECRET);
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        format!("Authorization: Bearer {token}\r\n")
    };
    let good = f.connect().await.request("GET", "/v1/queues/mine", None, &bearer(60.0)).await;
    check(&good, 200, "a token that is good");
    let expired = bearer(-0.1);
    for (number, (request, body, _)) in TABLE.iter().enumerate() {
        let (method, path) = split(request);
        // From one address, each failure is answered later than the one before.
        let mut connection = f.connect_from(&format!("198.51.100.{number}:4711")).await;
        let response = connection.request(method, path, parsed(body), &expired).await;
        check(&response, if matches!(path, "/healthz" | "/readyz") { 200 } else { 401 }, request);
    }
}

/// A broker with all that the requests name and all who ask, and the connection of the revoked one.
async fn world() -> (Fixture, Connection) {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/namespaces", Some(json!({"name": "other"}))).await;
    f.expect(201, "POST", "/v1/namespaces", Some(json!({"name": "secret"}))).await;
    for kind in ["topics", "queues", "exchanges"] {
        f.expect(201, "POST", &format!("/v1/{kind}"), Some(json!({"name": "secret"}))).await;
    }
    let all = &["configure", "read", "write"][..];
    for (person, namespace, name, actions) in [
        ("owner", "*", "mine*", all),
        ("reader", "*", "mine*", &["read"]),
        ("writer", "*", "mine*", &["write"]),
        ("stranger", "*", "nothing*", all),
        ("revoked", "*", "mine*", all),
        ("tenant", "other", "*", all),
        ("mine", "*", "nothing*", all),
    ] {
        set(&f, person, json!([{"namespace": namespace, "name": name, "actions": actions}])).await;
    }
    reset(&f).await;
    let mut revoked = f.connect().await;
    let path = "/v1/topics/mine/messages";
    let response = revoked.request("GET", path, None, &basic("revoked", "password")).await;
    check(&response, 200, "revoked, before");
    set(&f, "revoked", json!([])).await;
    (f, revoked)
}

/// Gives a user its permissions.
async fn set(f: &Fixture, user: &str, permissions: Json) {
    let body = json!({"password": "password", "permissions": permissions});
    let response = f.send("PUT", &format!("/v1/users/{user}"), Some(body)).await;
    assert!(response.status < 300, "{response:?}");
}

/// Restores the objects that each request finds, whatever the last one did.
async fn reset(f: &Fixture) {
    for (kind, name) in ["namespaces", "topics", "queues", "exchanges"]
        .iter()
        .flat_map(|kind| ["mine", "mine.new"].map(|name| (kind, name)))
    {
        f.send("DELETE", &format!("/v1/{kind}/{name}"), None).await;
    }
    for kind in ["namespaces", "topics", "queues", "exchanges"] {
        f.expect(201, "POST", &format!("/v1/{kind}"), Some(json!({"name": "mine"}))).await;
    }
    f.expect(201, "POST", "/v1/bindings", Some(json!({"exchange": "mine", "queue": "mine"}))).await;
    let admin = f.broker.system_client("test", Name::constant("default"), f.broker.next_connection());
    let offset = |topic: Arc<Topic>| CommittedOffset {
        topic: topic.id,
        partition: 0,
        offset: 1,
        epoch: -1,
        metadata: String::new(),
        committed: Timestamp(0),
    };
    let offsets = ["mine", "secret"].map(|topic| offset(admin.topic(topic).unwrap()));
    admin.commit_offsets(&Name::constant("mine"), None, offsets.into()).await.unwrap();
}

async fn ask(f: &Fixture, revoked: &mut Connection, person: &str, request: &str, body: &str) -> Response {
    let (method, path) = split(request);
    let headers = basic(person, "password");
    if person == "revoked" {
        return revoked.request(method, path, parsed(body), &headers).await;
    }
    f.connect().await.request(method, path, parsed(body), &headers).await
}

#[track_caller]
fn check(response: &Response, status: u16, what: &str) {
    assert_eq!(response.status, status, "{what}: {}", response.text);
    let code = match status {
        401 => "unauthenticated",
        403 => "denied",
        _ => return,
    };
    assert_eq!(response.json()["error"]["code"], code, "{what}");
}

fn parsed(body: &str) -> Option<Json> {
    (!body.is_empty()).then(|| serde_json::from_str(body).unwrap())
}

fn split(request: &str) -> (&str, &str) {
    request.split_once(' ').unwrap()
}

/// Whether a path is one that `pattern`, with `*` for a name, stands for.
fn leads_to(path: &str, pattern: &str) -> bool {
    let (path, pattern): (Vec<_>, Vec<_>) = (path.split('/').collect(), pattern.split('/').collect());
    path.len() == pattern.len() && pattern.iter().zip(&path).all(|(p, s)| *p == "*" || p == s)
}

/// `/v1/topics` and its like.
fn is_list(path: &str) -> bool {
    path.split('/').count() == 3 && path != "/v1/status"
}
