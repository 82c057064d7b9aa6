use crate::support::*;
use serde_json::{Value as Json, json};

async fn open(f: &Fixture, path: &str) -> Connection {
    let mut connection = f.connect().await;
    // What only reads is asked for by GET, what takes or makes something by POST.
    let reads = path.starts_with("/v1/topics/");
    let (method, headers) =
        if reads { ("GET", "") } else { ("POST", "Content-Type: application/json\r\nContent-Length: 0\r\n") };
    connection.start(method, path, None, headers).await;
    let head = connection.read_head().await;
    assert_eq!(head.status, 200, "{path}");
    assert_eq!(head.header("content-type"), Some("application/x-ndjson"));
    connection
}

fn bodies(lines: &[Json]) -> Vec<&str> {
    lines.iter().map(|m| m["body"].as_str().unwrap()).collect()
}

async fn publish(f: &Fixture, path: &str, messages: Json) {
    f.expect(200, "POST", &format!("/v1/{path}/messages"), Some(messages)).await;
}

fn numbered(range: std::ops::Range<u32>) -> Json {
    range.map(|n| json!({"body": n.to_string()})).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_live_takes_as_many_as_wanted_and_no_more() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    publish(&f, "queues/q", numbered(0..20)).await;
    for (query, expect) in [("count=5", 0..5), ("count=7&prefetch=2", 5..12)] {
        let mut stream = open(&f, &format!("/v1/queues/q/stream?{query}")).await;
        let lines = stream.lines(expect.len()).await;
        let expect: Vec<String> = expect.map(|n: u32| n.to_string()).collect();
        assert_eq!(bodies(&lines), expect);
        assert!(lines.iter().all(|l| l["redelivered"] == json!(false) && l["queue"] == "q"));
        assert_eq!(stream.chunk().await, None);
    }
    let mut stream = open(&f, "/v1/queues/q/stream").await;
    stream.lines(8).await;
    publish(&f, "queues/q", json!({"body": "live"})).await;
    assert_eq!(bodies(&stream.lines(1).await), ["live"]);
    drop(stream);
    // Whoever hangs up is no consumer any more.
    while f.expect(200, "GET", "/v1/queues/q", None).await["consumers"] != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_ends_its_stream() {
    let f = Fixture::new().await;
    f.expect(404, "POST", "/v1/queues/q/stream", Some(json!({}))).await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    let mut stream = open(&f, "/v1/queues/q/stream").await;
    f.expect(200, "DELETE", "/v1/queues/q", None).await;
    assert_eq!(stream.lines(1).await[0]["error"]["code"], "not_found");
    assert_eq!(stream.chunk().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_live_from_anywhere() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "t"}))).await;
    publish(&f, "topics/t", numbered(0..5)).await;
    let mut beginning = open(&f, "/v1/topics/t/stream?from=beginning").await;
    let mut offset = open(&f, "/v1/topics/t/stream?from=3&count=4").await;
    let mut end = open(&f, "/v1/topics/t/stream").await;
    publish(&f, "topics/t", numbered(5..10)).await;
    let mut all = Vec::new();
    while all.len() < 10 {
        all.extend(beginning.lines_so_far().await);
    }
    assert_eq!(bodies(&all), (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(all[7]["offset"], 7);
    let mut some = Vec::new();
    while some.len() < 4 {
        some.extend(offset.lines_so_far().await);
    }
    assert_eq!(bodies(&some), ["3", "4", "5", "6"]);
    assert_eq!(offset.chunk().await, None);
    assert_eq!(end.lines_so_far().await[0]["body"], "5");
    for (query, status) in [("partition=1", 404), ("from=x", 400), ("count=0", 400)] {
        f.expect(status, "GET", &format!("/v1/topics/t/stream?{query}"), None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_ends_its_stream() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "t"}))).await;
    let mut stream = open(&f, "/v1/topics/t/stream").await;
    f.expect(204, "DELETE", "/v1/topics/t", None).await;
    assert_eq!(stream.lines(1).await[0]["error"]["code"], "not_found");
    assert_eq!(stream.chunk().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_live_on_the_bus() {
    let f = Fixture::new().await;
    f.expect(400, "POST", "/v1/subjects/stream", Some(json!({}))).await;
    let mut stream = open(&f, "/v1/subjects/stream?pattern=orders.%23&count=2").await;
    for (subject, live) in [("orders.eu", 1), ("payments.eu", 0), ("orders", 1)] {
        let message = json!({"subject": subject, "body": subject});
        let routed = f.expect(200, "POST", "/v1/exchanges/amq.topic/messages", Some(message)).await;
        assert_eq!(routed["live"], live, "{subject}");
    }
    let mut lines = Vec::new();
    while lines.len() < 2 {
        lines.extend(stream.lines_so_far().await);
    }
    assert_eq!(bodies(&lines), ["orders.eu", "orders"]);
    assert_eq!(lines[0]["subject"], "orders.eu");
    assert_eq!(stream.chunk().await, None);
    assert_eq!(f.expect(200, "GET", "/v1/queues", None).await["queues"], json!([]), "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_producers_append_to_a_topic_is_seen_on_the_bus() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "orders"}))).await;
    let mut stream = open(&f, "/v1/subjects/stream?pattern=orders").await;
    publish(&f, "topics/orders", json!({"body": "x", "key": "k"})).await;
    let line = &stream.lines(1).await[0];
    assert_eq!((&line["body"], &line["key"], &line["subject"]), (&json!("x"), &json!("k"), &json!("orders")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_right_to_it() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "t"}))).await;
    let set = async |resource: Option<&str>| {
        let permissions =
            json!([{"resource": resource, "name": "*", "actions": ["read", "write", "configure"]}]);
        let user = json!({"password": "secret", "permissions": permissions});
        f.send("PUT", "/v1/users/clerk", Some(user)).await;
    };
    let posted = "Content-Type: application/json\r\nContent-Length: 0\r\n";
    for (method, path, headers) in [
        ("POST", "/v1/queues/q/stream", posted),
        ("GET", "/v1/topics/t/stream", ""),
        ("POST", "/v1/subjects/stream?pattern=a", posted),
    ] {
        let begin = async || {
            let mut connection = f.connect().await;
            let headers = format!("{}{headers}", basic("clerk", "secret"));
            connection.start(method, path, None, &headers).await;
            assert_eq!(connection.read_head().await.status, 200, "{path}");
            connection
        };
        set(None).await;
        let mut stream = begin().await;
        set(Some("group")).await;
        let last = stream.lines(1).await;
        assert_eq!(last[0]["error"]["code"], "denied", "{path}: {last:?}");
        assert_eq!(stream.chunk().await, None);
        set(None).await;
        let mut stream = begin().await;
        f.expect(204, "DELETE", "/v1/users/clerk", None).await;
        let last = stream.lines(1).await;
        assert_eq!(last[0]["error"]["code"], "unauthenticated", "{path}: {last:?}");
        assert_eq!(stream.chunk().await, None);
    }
}
