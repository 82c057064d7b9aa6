use crate::support::*;
use serde_json::{Value as Json, json};

fn bodies(list: &Json) -> Vec<&str> {
    list["messages"].as_array().unwrap().iter().map(|m| m["body"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_survives_with_all_its_parts() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "t"}))).await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    let message = json!({"key": "k", "body_base64": "/wA=", "id": "i", "correlation_id": "c", "reply_to": "r",
        "content_type": "a/b", "content_encoding": "e", "type": "y", "user": "u", "application": "a",
        "timestamp_ms": 7, "headers": [{"name": "n", "value": 1}, {"name": "n", "value": "two"}]});
    let done = f.expect(200, "POST", "/v1/topics/t/messages", Some(message.clone())).await;
    assert_eq!(done, json!({"partition": 0, "offset": 0}));
    f.expect(200, "POST", "/v1/queues/q/messages", Some(message.clone())).await;
    let from_topic = f.expect(200, "GET", "/v1/topics/t/messages", None).await;
    let from_queue = f.expect(200, "POST", "/v1/queues/q/get", Some(json!({}))).await;
    let mut expect = message;
    let place = |message: &Json, more: Json| {
        let mut whole = message.as_object().unwrap().clone();
        whole.extend(more.as_object().unwrap().clone());
        Json::Object(whole)
    };
    let in_topic = json!({"topic": "t", "partition": 0, "offset": 0, "subject": "t"});
    assert_eq!(from_topic["messages"][0], place(&expect, in_topic));
    expect = place(&expect, json!({"queue": "q", "redelivered": false, "attempt": 1, "subject": "q"}));
    assert_eq!(from_queue["messages"][0], expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_read_by_offset() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "t", "partitions": 2}))).await;
    let messages: Vec<Json> = (0..10).map(|n| json!({"body": n.to_string(), "partition": 1})).collect();
    let done = f.expect(200, "POST", "/v1/topics/t/messages", Some(json!(messages))).await;
    assert_eq!(done["results"][9], json!({"partition": 1, "offset": 9}));
    let page = f.expect(200, "GET", "/v1/topics/t/messages?partition=1&count=4", None).await;
    assert_eq!((bodies(&page), &page["next"]), (vec!["0", "1", "2", "3"], &json!(4)));
    let page = f.expect(200, "GET", "/v1/topics/t/messages?partition=1&from=8", None).await;
    assert_eq!((bodies(&page), &page["next"], &page["end"]), (vec!["8", "9"], &json!(10), &json!(10)));
    let page = f.expect(200, "GET", "/v1/topics/t/messages?partition=1&from=end", None).await;
    assert_eq!((bodies(&page), &page["next"]), (vec![], &json!(10)));
    assert_eq!(bodies(&f.expect(200, "GET", "/v1/topics/t/messages", None).await), [""; 0]);
    for (query, status) in [
        ("partition=2", 404),
        ("from=11&partition=1", 416),
        ("from=x", 400),
        ("count=0", 400),
        ("offset=1", 400),
    ] {
        f.expect(status, "GET", &format!("/v1/topics/t/messages?{query}"), None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_what_comes() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "t"}))).await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    let of_topic = f.expect(200, "GET", "/v1/topics/t/messages?wait_ms=30000", None);
    let of_queue = f.expect(200, "POST", "/v1/queues/q/get", Some(json!({"wait_ms": 30000, "count": 5})));
    let publish = async {
        // The queue's reader is known to wait; the topic's sees the message in any case.
        while f.expect(200, "GET", "/v1/queues/q", None).await["consumers"] != 1 {
            tokio::task::yield_now().await;
        }
        f.expect(200, "POST", "/v1/topics/t/messages", Some(json!({"body": "x"}))).await;
        f.expect(200, "POST", "/v1/queues/q/messages", Some(json!({"body": "y"}))).await;
    };
    let (topic, queue, ()) = tokio::join!(of_topic, of_queue, publish);
    assert_eq!((bodies(&topic), bodies(&queue)), (vec!["x"], vec!["y"]));
    let state = f.expect(200, "GET", "/v1/queues/q", None).await;
    assert_eq!((&state["ready"], &state["leased"], &state["consumers"]), (&json!(0), &json!(0), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_keep_their_partition() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "t", "partitions": 4}))).await;
    let publish = async |message: Json| {
        f.expect(200, "POST", "/v1/topics/t/messages", Some(message)).await["partition"].as_u64().unwrap()
    };
    // 479470107 is what other producers' hash makes of it.
    assert_eq!(publish(json!({"key": "abc"})).await, 479470107 % 4);
    let mut spread = Vec::new();
    for _ in 0..4 {
        spread.push(publish(json!({})).await);
    }
    spread.sort_unstable();
    assert_eq!(spread, [0, 1, 2, 3], "without a key they take turns");
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_taken_from() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "dead"}))).await;
    let queue = json!({"name": "q", "dead_letter": {"subject": "dead"}});
    f.expect(201, "POST", "/v1/queues", Some(queue)).await;
    let messages: Vec<Json> = (0..4).map(|n| json!({"body": n.to_string()})).collect();
    f.expect(200, "POST", "/v1/queues/q/messages", Some(json!(messages))).await;
    let get = async |queue: &str, request: Json| {
        f.expect(200, "POST", &format!("/v1/queues/{queue}/get"), Some(request)).await
    };
    let looked_at = get("q", json!({"count": 2, "ack": "release"})).await;
    assert_eq!(bodies(&looked_at), ["0", "1"]);
    let taken = get("q", json!({})).await;
    assert_eq!((bodies(&taken), &taken["messages"][0]["redelivered"]), (vec!["0"], &json!(true)));
    assert_eq!(bodies(&get("q", json!({"ack": "reject"})).await), ["1"]);
    assert_eq!(bodies(&get("q", json!({"count": 10})).await), ["2", "3"]);
    assert_eq!(bodies(&get("q", json!({})).await), [""; 0]);
    assert_eq!(bodies(&get("dead", json!({"wait_ms": 30000})).await), ["1"]);
    f.expect(400, "POST", "/v1/queues/q/get", Some(json!({"ack": "eat"}))).await;
    f.expect(404, "POST", "/v1/queues/nope/get", Some(json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_reaches_queues_and_topics() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "s", "captures": ["sensors.#"]}))).await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    let binding = json!({"exchange": "amq.topic", "queue": "q", "key": "sensors.*.temp"});
    f.expect(201, "POST", "/v1/bindings", Some(binding)).await;
    let message = json!({"subject": "sensors.7.temp", "body": "21", "headers": {"unit": "c"}});
    let routed = f.expect(200, "POST", "/v1/exchanges/amq.topic/messages", Some(message)).await;
    assert_eq!(routed, json!({"queues": 1, "topics": 1, "live": 0}));
    let topic = f.expect(200, "GET", "/v1/topics/s/messages", None).await;
    let queue = f.expect(200, "POST", "/v1/queues/q/get", Some(json!({}))).await;
    for list in [topic, queue] {
        let message = &list["messages"][0];
        assert_eq!((&message["subject"], &message["body"]), (&json!("sensors.7.temp"), &json!("21")));
        assert_eq!(message["headers"], json!([{"name": "unit", "value": "c"}]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_and_delay() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    f.expect(200, "POST", "/v1/queues/q/messages", Some(json!({"body": "late", "delay_ms": 300}))).await;
    let state = f.expect(200, "GET", "/v1/queues/q", None).await;
    assert_eq!(state["ready"], 0);
    f.expect(200, "POST", "/v1/queues/q/messages", Some(json!({"body": "soon", "ttl_ms": 60000}))).await;
    let get = || f.expect(200, "POST", "/v1/queues/q/get", Some(json!({"wait_ms": 30000})));
    let first = get().await;
    assert_eq!(bodies(&first), ["soon"]);
    assert!(first["messages"][0]["expires_ms"].as_i64() > first["messages"][0]["timestamp_ms"].as_i64());
    assert_eq!(bodies(&get().await), ["late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "t", "message_bytes_max": 3}))).await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    for (path, body, status, names) in [
        ("topics/nope", json!({}), 404, "nope"),
        ("topics/t", json!({"partition": 1}), 404, "partition"),
        ("topics/t", json!({"body": "1234"}), 413, "4 bytes"),
        ("topics/t", json!({"delay_ms": 1}), 400, "delay_ms"),
        ("topics/t", json!({"subject": "x"}), 400, "subject"),
        ("topics/t", json!({"body": 7}), 400, "7"),
        ("topics/t", json!([]), 400, "number of messages"),
        ("topics/t", json!("x"), 400, "body"),
        ("queues/nope", json!({}), 404, "nope"),
        ("queues/q", json!({"mandatory": true}), 400, "mandatory"),
        ("exchanges/nope", json!({}), 404, "nope"),
        ("exchanges/amq.topic", json!({"partition": 1}), 400, "partition"),
        ("exchanges/amq.topic", json!([{"subject": "a"}, {"bodi": "x"}]), 400, "bodi"),
    ] {
        let error = f.expect(status, "POST", &format!("/v1/{path}/messages"), Some(body)).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(names), "{path}: {message}");
    }
}
