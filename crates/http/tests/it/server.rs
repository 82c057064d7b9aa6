use crate::support::*;
use posthaste_model::Limits;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_status() {
    let f = Fixture::new().await;
    for path in ["/healthz", "/readyz"] {
        let response = f.send("GET", path, None).await;
        assert_eq!((response.status, response.text.as_str()), (200, "ok\n"), "{path}");
    }
    f.expect(201, "POST", "/v1/topics", Some(json!({"name": "orders", "partitions": 2}))).await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "a\"b"}))).await;
    f.expect(200, "POST", "/v1/topics/orders/messages", Some(json!({"body": "x", "partition": 1}))).await;
    let metrics = f.send("GET", "/metrics", None).await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "posthaste_partition_end_offset{namespace=\"default\",topic=\"orders\",partition=\"1\"} 1",
        "posthaste_partition_end_offset{namespace=\"default\",topic=\"orders\",partition=\"0\"} 0",
        "posthaste_queue_ready{namespace=\"default\",queue=\"a\\\"b\"} 0",
        "posthaste_published_total 1",
        "posthaste_no_space 0",
    ] {
        assert!(metrics.text.lines().any(|l| l == line), "{line} in\n{}", metrics.text);
    }
    let status = f.expect(200, "GET", "/v1/status", None).await;
    assert_eq!(status["objects"]["topics"], 1);
    assert_eq!(status["objects"]["partitions"], 2);
    assert_eq!(status["user"], "anonymous");
    assert_eq!(status["listeners"]["http"], ADVERTISED);
    assert_eq!(status["cluster_id"], f.broker.cluster_id());
    assert_eq!(status["messages"]["published"], 1);
    assert_eq!(status["damage"]["unreadable_messages"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_what_is_not_done() {
    let f = Fixture::new().await;
    let response = f.send("GET", "/v1/nothing", None).await;
    assert_eq!((response.status, &response.json()["error"]["code"]), (404, &json!("not_found")));
    let response = f.send("POST", "/v1/groups", Some(json!({}))).await;
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(response.json()["error"]["code"], "method_not_allowed");
    let head = f.send("HEAD", "/v1/topics", None).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_many_requests() {
    let f = Fixture::new().await;
    let mut connection = f.connect().await;
    for n in 0..5 {
        let body = json!({"name": format!("t{n}")});
        assert_eq!(connection.request("POST", "/v1/topics", Some(body), "").await.status, 201);
        assert_eq!(connection.request("POST", "/v1/topics", Some(json!({"name": 1})), "").await.status, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_limited() {
    let f = Fixture::with_limits(Limits { message_bytes_max: 1_000, ..Limits::default() }).await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    let big = json!({"body": "x".repeat(1_001)});
    let error = f.expect(413, "POST", "/v1/queues/q/messages", Some(big)).await;
    assert_eq!(error["error"]["code"], "too_large");
    let mut connection = f.connect().await;
    let head = "Content-Type: application/json\r\nContent-Length: 9223372036854775807\r\n";
    connection.start("POST", "/v1/queues/q/messages", None, head).await;
    let response = connection.read_head().await;
    assert_eq!(response.status, 413, "by its announced length, before it has come");
    let chunked = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let mut connection = f.connect().await;
    connection.start("POST", "/v1/topics", None, chunked).await;
    let part = format!("80000\r\n{}\r\n", " ".repeat(0x80000));
    for _ in 0..3 {
        // It may stop reading before all has come.
        if connection.stream.write_all(part.as_bytes()).await.is_err() {
            break;
        }
    }
    assert_eq!(connection.read_head().await.status, 413, "by what has come");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_bodies_end() {
    let limits = Limits { handshake_ms_max: 100, slow_reader_ms_max: 100, ..Limits::default() };
    let f = Fixture::with_limits(limits).await;
    let mut slow = f.connect().await;
    slow.stream.write_all(b"GET /healthz HT").await.unwrap();
    let mut rest = Vec::new();
    slow.stream.read_to_end(&mut rest).await.unwrap();
    let mut slow = f.connect().await;
    let head = "Content-Type: application/json\r\nContent-Length: 10\r\n";
    slow.start("POST", "/v1/topics", None, head).await;
    assert_eq!(slow.read_head().await.status, 408);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited() {
    let f = Fixture::with_limits(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = f.connect().await;
    assert_eq!(first.request("GET", "/healthz", None, "").await.status, 200);
    let mut second = f.connect().await;
    let mut rest = Vec::new();
    let _ = second.stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "closed at once");
    assert_eq!(first.request("GET", "/healthz", None, "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_streams_and_connections() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    let mut stream = f.connect().await;
    stream.start("POST", "/v1/queues/q/stream", Some(json!({})), "").await;
    assert_eq!(stream.read_head().await.status, 200);
    let mut waiting = f.connect().await;
    waiting.start("POST", "/v1/queues/q/get", Some(json!({"wait_ms": 60_000})), "").await;
    let _idle = f.connect().await;
    f.broker.announce_stop();
    assert_eq!(stream.chunk().await, None);
    f.serving.await.unwrap();
    assert_eq!(f.broker.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishers_and_serves_takers() {
    let f = Fixture::new().await;
    f.expect(201, "POST", "/v1/queues", Some(json!({"name": "q"}))).await;
    f.expect(200, "POST", "/v1/queues/q/messages", Some(json!({"body": "before"}))).await;
    // A reserve that no disk has room for.
    let f = f.restart(Limits { reserve_bytes: u64::MAX, ..Limits::default() }).await;
    let error = f.expect(507, "POST", "/v1/queues/q/messages", Some(json!({"body": "during"}))).await;
    assert_eq!(error["error"]["code"], "no_space");
    f.expect(507, "POST", "/v1/queues", Some(json!({"name": "r"}))).await;
    f.expect(503, "GET", "/readyz", None).await;
    assert_eq!(f.expect(200, "GET", "/v1/status", None).await["no_space"], true);
    let metrics = f.send("GET", "/metrics", None).await;
    assert!(metrics.text.contains("posthaste_refused_total 1"), "{}", metrics.text);
    let taken = f.expect(200, "POST", "/v1/queues/q/get", Some(json!({"ack": "accept"}))).await;
    assert_eq!(taken["messages"][0]["body"], "before");
    let f = f.restart(Limits::default()).await;
    f.expect(200, "POST", "/v1/queues/q/messages", Some(json!({"body": "after"}))).await;
    let taken = f.expect(200, "POST", "/v1/queues/q/get", Some(json!({}))).await;
    assert_eq!(taken["messages"][0]["body"], "after");
}
