use crate::support::*;
use serde_json::{Value as Json, json};

/// The fields of `expect` are those of `found`.
fn has(found: &Json, expect: Json) {
    for (field, value) in expect.as_object().unwrap() {
        assert_eq!(&found[field], value, "{field} of {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/namespaces", Some(json!({"name": "eu/shop"}))).await;
    f.expect(409, "POST", "/v1/namespaces", Some(json!({"name": "eu/shop"}))).await;
    f.expect(201, "POST", "/v1/topics?namespace=eu/shop", Some(json!({"name": "orders"}))).await;
    f.expect(404, "GET", "/v1/topics/orders", None).await;
    f.expect(200, "GET", "/v1/topics/orders?namespace=eu%2Fshop", None).await;
    has(&f.expect(200, "GET", "/v1/namespaces/eu%2Fshop", None).await, json!({"topics": 1, "queues": 0}));
    let all = f.expect(200, "GET", "/v1/namespaces", None).await;
    assert_eq!(all["namespaces"].as_array().unwrap().len(), 2);
    f.expect(403, "DELETE", "/v1/namespaces/default", None).await;
    f.expect(204, "DELETE", "/v1/namespaces/eu%2Fshop", None).await;
    f.expect(404, "DELETE", "/v1/namespaces/eu%2Fshop", None).await;
    f.expect(404, "GET", "/v1/topics?namespace=eu/shop", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics() {
    let f = Fixture::new().await;
    let creation = json!({"name": "sensors", "partitions": 3, "captures": ["sensors.#", "a.*.b"],
        "retention_ms": 1000, "durability": "os"});
    let topic = f.expect(201, "POST", "/v1/topics", Some(creation.clone())).await;
    has(&topic, creation);
    has(&topic, json!({"messages": 0, "bytes": 0, "retention_bytes": null, "broker_timestamps": false}));
    assert_eq!(topic["offsets"][2], json!({"partition": 2, "start": 0, "end": 0, "bytes": 0}));
    f.expect(409, "POST", "/v1/topics", Some(json!({"name": "sensors"}))).await;
    let changed = json!({"retention_ms": null, "partitions": 5, "captures": []});
    let topic = f.expect(200, "PATCH", "/v1/topics/sensors", Some(changed.clone())).await;
    has(&topic, changed);
    has(&topic, json!({"durability": "os"}));
    has(&f.expect(200, "GET", "/v1/topics/sensors", None).await, json!({"partitions": 5}));
    for (body, names) in [
        (json!({"name": ""}), "empty"),
        (json!({"name": "t", "partitions": 0}), "partitions"),
        (json!({"name": "t", "partitions": 10_001}), "partitions"),
        (json!({"name": "t", "partition": 1}), "partition"),
        (json!({"name": "t", "durability": "none"}), "fsync"),
        (json!({"name": "t", "retention_ms": -1}), "-1"),
        (json!({}), "name"),
        (json!([]), "body"),
    ] {
        let error = f.expect(400, "POST", "/v1/topics", Some(body.clone())).await;
        assert!(error["error"]["message"].as_str().unwrap().contains(names), "{body}: {error}");
    }
    f.expect(400, "PATCH", "/v1/topics/sensors", Some(json!({"partitions": 4}))).await;
    f.expect(204, "DELETE", "/v1/topics/sensors", None).await;
    f.expect(404, "DELETE", "/v1/topics/sensors", None).await;
    f.expect(404, "GET", "/v1/topics/sensors", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let f = Fixture::new().await;
    for name in ["a", "b", "c"] {
        f.expect(201, "POST", "/v1/topics", Some(json!({"name": name}))).await;
    }
    let names = |page: &Json| -> Vec<String> {
        page["topics"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
    };
    let page = f.expect(200, "GET", "/v1/topics?count=2", None).await;
    assert_eq!((names(&page), &page["next"]), (vec!["a".into(), "b".into()], &json!("b")));
    let page = f.expect(200, "GET", "/v1/topics?count=2&after=b", None).await;
    assert_eq!((names(&page), &page["next"]), (vec!["c".into()], &Json::Null));
    for query in ["count=0", "count=x", "limit=1", "count=10001"] {
        f.expect(400, "GET", &format!("/v1/topics?{query}"), None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues() {
    let f = Fixture::new().await;
    let creation = json!({"name": "jobs", "ttl_ms": 60000, "length_max": 5, "overflow": "reject", "priorities": 3,
        "delivery_limit": 2, "dead_letter": {"exchange": "amq.topic", "subject": "dead.work"}});
    let queue = f.expect(201, "POST", "/v1/queues", Some(creation.clone())).await;
    has(&queue, creation);
    has(
        &queue,
        json!({"durable": true, "exclusive": false, "ready": 0, "consumers": 0, "durability": "fsync"}),
    );
    f.expect(409, "POST", "/v1/queues", Some(json!({"name": "jobs"}))).await;
    f.expect(403, "POST", "/v1/queues", Some(json!({"name": "amq.mine"}))).await;
    f.expect(400, "POST", "/v1/queues", Some(json!({"name": "q", "priorities": 256}))).await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "fleeting", "durable": false}))).await;
    let queue = f.expect(200, "PATCH", "/v1/queues/jobs", Some(json!({"length_max": 2}))).await;
    has(&queue, json!({"length_max": 2, "ttl_ms": 60000}));
    for status in [200, 200, 409] {
        f.expect(status, "POST", "/v1/queues/jobs/messages", Some(json!({"body": "x"}))).await;
    }
    has(&f.expect(200, "GET", "/v1/queues/jobs", None).await, json!({"ready": 2}));
    let error = f.expect(409, "DELETE", "/v1/queues/jobs?if_empty=true", None).await;
    assert_eq!(error["error"]["code"], "not_empty");
    has(&f.expect(200, "DELETE", "/v1/queues/jobs/messages", None).await, json!({"messages": 2}));
    has(&f.expect(200, "DELETE", "/v1/queues/jobs?if_empty=true", None).await, json!({"messages": 0}));
    f.expect(404, "DELETE", "/v1/queues/jobs", None).await;
    let list = f.expect(200, "GET", "/v1/queues", None).await;
    assert_eq!(list["queues"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_and_bindings() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    for kind in ["direct", "fanout", "headers", "topic"] {
        let exchange =
            f.expect(201, "POST", "/v1/exchanges", Some(json!({"name": kind, "type": kind}))).await;
        has(&exchange, json!({"type": kind, "durable": true, "bindings": 0}));
    }
    f.expect(400, "POST", "/v1/exchanges", Some(json!({"name": "x", "type": "odd"}))).await;
    f.expect(403, "POST", "/v1/exchanges", Some(json!({"name": "amq.x"}))).await;
    f.expect(409, "POST", "/v1/exchanges", Some(json!({"name": "amq.topic"}))).await;
    f.expect(403, "DELETE", "/v1/exchanges/amq.topic", None).await;
    for binding in [
        json!({"exchange": "direct", "queue": "q", "key": "k"}),
        json!({"exchange": "fanout", "queue": "q", "key": ""}),
        json!({"exchange": "headers", "queue": "q", "key": "", "headers": {"a": 1, "b": null}, "match": "any"}),
        json!({"exchange": "topic", "queue": "q", "key": "a.#"}),
        json!({"exchange": "topic", "to_exchange": "direct", "key": "k"}),
    ] {
        let shown = f.expect(201, "POST", "/v1/bindings", Some(binding.clone())).await;
        assert_eq!(shown, binding);
    }
    for (exchange, message, queues) in [
        ("direct", json!({"subject": "k"}), 1),
        ("direct", json!({"subject": "l"}), 0),
        ("fanout", json!({}), 1),
        ("headers", json!({"headers": {"a": 1}}), 1),
        ("headers", json!({"headers": [{"name": "b", "value": "x"}]}), 1),
        ("headers", json!({"headers": {"a": 2}}), 0),
        ("topic", json!({"subject": "a.b.c"}), 1),
        ("topic", json!({"subject": "k"}), 1),
    ] {
        let path = format!("/v1/exchanges/{exchange}/messages");
        let routed = f.expect(200, "POST", &path, Some(message.clone())).await;
        assert_eq!(routed, json!({"queues": queues, "topics": 0, "live": 0}), "{exchange} {message}");
    }
    let nowhere = json!({"subject": "l", "mandatory": true});
    let error = f.expect(422, "POST", "/v1/exchanges/direct/messages", Some(nowhere)).await;
    assert_eq!(error["error"]["code"], "unroutable");
    let listed = f.expect(200, "GET", "/v1/bindings?queue=q&exchange=topic", None).await;
    assert_eq!(listed["bindings"], json!([{"exchange": "topic", "queue": "q", "key": "a.#"}]));
    for (binding, status) in [
        (json!({"exchange": "nope", "queue": "q"}), 404),
        (json!({"exchange": "topic", "queue": "nope"}), 404),
        (json!({"exchange": "topic"}), 400),
        (json!({"exchange": "topic", "queue": "q", "to_exchange": "direct"}), 400),
        (json!({"exchange": "topic", "queue": "q", "headers": {}}), 400),
    ] {
        f.expect(status, "POST", "/v1/bindings", Some(binding)).await;
    }
    f.expect(404, "DELETE", "/v1/bindings?exchange=topic&queue=q&key=nope", None).await;
    f.expect(204, "DELETE", "/v1/bindings?exchange=topic&queue=q&key=a.%23", None).await;
    f.expect(204, "DELETE", "/v1/bindings?exchange=headers&queue=q", None).await;
    assert_eq!(f.expect(200, "GET", "/v1/exchanges/headers", None).await["bindings"], 0);
    f.expect(409, "DELETE", "/v1/exchanges/direct?if_unused=true", None).await;
    f.expect(204, "DELETE", "/v1/exchanges/direct", None).await;
    f.expect(404, "DELETE", "/v1/exchanges/direct", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users() {
    let f = Fixture::new().await;
    let permission = json!({
        "effect": "allow", "namespace": "*", "resource": "queue", "name": "w*", "actions": ["read"],
    });
    let user = json!({"name": "ann", "password": "p", "permissions": [permission]});
    f.expect(201, "POST", "/v1/users", Some(user.clone())).await;
    f.expect(409, "POST", "/v1/users", Some(user)).await;
    let shown = f.expect(200, "GET", "/v1/users/ann", None).await;
    let expect = json!({
        "name": "ann", "has_password": true, "certificate_names": [], "access_keys": [], "groups": [],
        "loopback_only": false, "administrator": false, "permissions": [permission], "limits": {},
        "default_namespace": null, "usage": {"connections": 0, "objects": 0},
    });
    assert_eq!(shown, expect);
    let limited = json!({"limits": {"connections": 5, "objects": null}, "default_namespace": "shop"});
    let limited = f.expect(200, "PUT", "/v1/users/ann", Some(limited)).await;
    has(&limited, json!({"limits": {"connections": 5}, "default_namespace": "shop"}));
    f.expect(400, "PUT", "/v1/users/ann", Some(json!({"limits": {"memory": 5}}))).await;
    let replaced = f.expect(200, "PUT", "/v1/users/ann", Some(json!({"administrator": true}))).await;
    has(&replaced, json!({"administrator": true, "permissions": []}));
    let header = "Authorization: Basic YW5uOnA=\r\n";
    let response = f.connect().await.request("GET", "/v1/users", None, header).await;
    assert_eq!(response.status, 200, "the password is still the same");
    assert_eq!(response.json()["users"].as_array().unwrap().len(), 2);
    f.expect(400, "PUT", "/v1/users/bob", Some(json!({}))).await;
    f.expect(201, "PUT", "/v1/users/bob", Some(json!({"password": "x"}))).await;
    for body in [
        json!({"name": "x", "password": ""}),
        json!({"name": "x"}),
        json!({"password": "p"}),
        json!({"name": "x", "password": "p", "without_password": true}),
        json!({"name": "x", "password": "p", "groups": ["nobody"]}),
        json!({"name": "x", "password": "p", "colour": "blue"}),
        json!({"name": "x", "password": "p", "permissions": [{"name": {"regex": "("}, "actions": ["read"]}]}),
        json!({"name": "x", "password": "p", "permissions": [{"from": "here", "actions": ["read"]}]}),
        json!({"name": "x", "permissions": [{"actions": ["read"], "exchange": "x"}]}),
        json!({"name": "x", "password": "p", "permissions": [{"actions": []}]}),
        json!({"name": "x", "password": "p", "permissions": [{"actions": ["fly"]}]}),
    ] {
        f.expect(400, "POST", "/v1/users", Some(body)).await;
    }
    f.expect(204, "DELETE", "/v1/users/bob", None).await;
    f.expect(404, "DELETE", "/v1/users/bob", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_groups() {
    let f = Fixture::new().await;
    let permission = json!({
        "effect": "deny", "namespace": {"literal": "default"}, "resource": "topic", "name": {"regex": "^%u"},
        "actions": ["read", "describe"], "from": "10.0.0.0/8",
    });
    let through = json!({
        "effect": "allow", "namespace": "*", "resource": "subject", "name": "eu.*", "actions": ["write"],
        "exchange": {"literal": "x"},
    });
    let limits = json!({"read_bytes_per_second": 1000});
    let permissions = [permission, through];
    let group =
        json!({"name": "staff", "administrator": false, "permissions": permissions, "limits": limits});
    f.expect(201, "POST", "/v1/user-groups", Some(group.clone())).await;
    f.expect(409, "POST", "/v1/user-groups", Some(group.clone())).await;
    assert_eq!(f.expect(200, "GET", "/v1/user-groups/staff", None).await, group);
    has(&f.expect(200, "GET", "/v1/user-groups", None).await, json!({"user-groups": [group]}));
    let user = json!({"name": "ann", "without_password": true, "groups": ["staff"],
        "certificate_names": ["CN=ann"]});
    let shown = f.expect(201, "POST", "/v1/users", Some(user)).await;
    has(&shown, json!({"has_password": false, "groups": ["staff"], "certificate_names": ["CN=ann"]}));
    let another = json!({"name": "eve", "password": "p", "certificate_names": ["CN=ann"]});
    f.expect(400, "POST", "/v1/users", Some(another)).await;
    f.expect(409, "DELETE", "/v1/user-groups/staff", None).await;
    f.expect(200, "PUT", "/v1/users/ann", Some(json!({"name": "ann"}))).await;
    f.expect(400, "PUT", "/v1/users/ann", Some(json!({"name": "eve"}))).await;
    f.expect(200, "PUT", "/v1/user-groups/staff", Some(json!({"administrator": true}))).await;
    f.expect(204, "DELETE", "/v1/user-groups/staff", None).await;
    f.expect(404, "GET", "/v1/user-groups/staff", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups() {
    use posthaste_engine::{catalog::TopicConfig, event::CommittedOffset};
    let f = Fixture::new().await;
    f.expect(404, "GET", "/v1/groups/billing", None).await;
    let principal =
        f.broker.authenticate(posthaste_broker::Credentials::Anonymous, [127, 0, 0, 1].into()).await.unwrap();
    let name = |text: &str| posthaste_model::Name::new(text).unwrap();
    let client = f.broker.client(principal, name("default"), f.broker.next_connection());
    let topic = client.create_topic(&name("orders"), 1, TopicConfig::default()).await.unwrap();
    for _ in 0..3 {
        f.expect(200, "POST", "/v1/topics/orders/messages", Some(json!({"body": "x"}))).await;
    }
    let committed = CommittedOffset {
        topic: topic.id,
        partition: 0,
        offset: 1,
        epoch: -1,
        metadata: "note".to_owned(),
        committed: f.broker.now(),
    };
    client.commit_offsets(&name("billing"), None, vec![committed]).await.unwrap();
    let group = f.expect(200, "GET", "/v1/groups/billing", None).await;
    has(&group, json!({"name": "billing", "state": "empty", "members": []}));
    has(
        &group["offsets"][0],
        json!({"topic": "orders", "partition": 0, "offset": 1, "end": 3, "lag": 2, "metadata": "note"}),
    );
    assert_eq!(f.expect(200, "GET", "/v1/groups", None).await["groups"].as_array().unwrap().len(), 1);
    f.expect(204, "DELETE", "/v1/groups/billing", None).await;
    f.expect(404, "DELETE", "/v1/groups/billing", None).await;
}
