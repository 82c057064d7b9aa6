use crate::support::*;
use serde_json::{Value as Json, json};

#[tokio::test(flavor = "multi_thread")]
async fn who_asks() {
    let f = Fixture::new().await;
    for (headers, status, code) in [
        (String::new(), 200, ""),
        (basic("guest", "guest"), 200, ""),
        (basic("guest", "wrong"), 401, "unauthenticated"),
        (basic("nobody", "guest"), 401, "unauthenticated"),
        ("Authorization: Bearer x\r\n".to_owned(), 401, "unauthenticated"),
        ("Origin: http://evil.example\r\n".to_owned(), 403, "foreign_origin"),
        ("Origin: null\r\n".to_owned(), 403, "foreign_origin"),
        ("Origin: http://localhost\r\n".to_owned(), 200, ""),
        ("Host: evil.example\r\n".to_owned(), 403, "foreign_origin"),
        (format!("{}Host: evil.example\r\n", basic("guest", "guest")), 403, "foreign_origin"),
        ("Host: localhost\r\nHost: evil.example\r\n".to_owned(), 403, "foreign_origin"),
        ("Host: broker.example:8080\r\n".to_owned(), 200, ""),
        ("Sec-Fetch-Site: cross-site\r\n".to_owned(), 403, "foreign_origin"),
        ("Sec-Fetch-Site: same-site\r\n".to_owned(), 403, "foreign_origin"),
        ("Sec-Fetch-Site: same-origin\r\n".to_owned(), 200, ""),
        ("Sec-Fetch-Site: none\r\n".to_owned(), 200, ""),
    ] {
        let response = f.connect().await.request("GET", "/v1/topics", None, &headers).await;
        assert_eq!(response.status, status, "{headers}");
        if status != 200 {
            assert_eq!(response.json()["error"]["code"], code, "{headers}");
        }
        let challenge = response.header("www-authenticate").is_some_and(|v| v.starts_with("Basic realm="));
        assert_eq!(challenge, status == 401, "{headers}");
    }
    let health = f.connect().await.request("GET", "/healthz", None, &basic("guest", "wrong")).await;
    assert_eq!(health.status, 200, "health is for everybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_changes_anything() {
    let f = Fixture::new().await;
    let headers = "Content-Type: text/plain\r\nContent-Length: 14\r\n\r\n{\"name\": \"t\"}\n";
    let response = f.connect().await.request("POST", "/v1/topics", None, headers).await;
    assert_eq!((response.status, &response.json()["error"]["code"]), (415, &json!("not_json")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_do() {
    let f = Fixture::new().await;
    let user = json!({"name": "clerk", "password": "secret", "permissions": [
        {"resource": "topic", "name": "orders*", "actions": ["read", "write"]},
    ]});
    let shown = f.expect(201, "POST", "/v1/users", Some(user)).await;
    assert!(!shown.to_string().contains("secret") && !shown.to_string().contains("argon2"), "{shown}");
    for topic in ["orders", "orders.eu", "salaries"] {
        f.expect(201, "POST", "/v1/topics", Some(json!({"name": topic}))).await;
    }
    let clerk = basic("clerk", "secret");
    let mut connection = f.connect().await;
    for (method, path, body, status) in [
        ("GET", "/v1/topics/orders", None, 200),
        ("POST", "/v1/topics/orders/messages", Some(json!({"body": "x"})), 200),
        ("GET", "/v1/topics/orders/messages", None, 200),
        ("DELETE", "/v1/topics/orders", None, 403),
        ("GET", "/v1/topics/salaries", None, 403),
        ("GET", "/v1/topics/salaries/messages", None, 403),
        ("GET", "/v1/topics/salaries/stream", None, 403),
        ("POST", "/v1/topics/salaries/messages", Some(json!({"body": "x"})), 403),
        ("POST", "/v1/topics", Some(json!({"name": "orders.us"})), 403),
        ("POST", "/v1/queues", Some(json!({"name": "orders"})), 403),
        ("POST", "/v1/exchanges/amq.topic/messages", Some(json!({"subject": "orders"})), 403),
        ("POST", "/v1/subjects/stream", Some(json!({"pattern": "#"})), 403),
        ("GET", "/v1/users", None, 403),
        ("GET", "/v1/users/clerk", None, 200),
        ("GET", "/v1/users/guest", None, 403),
        ("PUT", "/v1/users/clerk", Some(json!({"administrator": true})), 403),
        ("POST", "/v1/users", Some(json!({"name": "x", "password": "y"})), 403),
        ("GET", "/v1/user-groups", None, 403),
        ("PUT", "/v1/user-groups/staff", Some(json!({"administrator": true})), 403),
    ] {
        let response = connection.request(method, path, body, &clerk).await;
        assert_eq!(response.status, status, "{method} {path}: {}", response.text);
        if status == 403 {
            assert_eq!(response.json()["error"]["code"], "denied", "{method} {path}");
        }
    }
    let seen = connection.request("GET", "/v1/topics", None, &clerk).await.json();
    let names: Vec<&str> =
        seen["topics"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert_eq!(names, ["orders", "orders.eu"]);
    let metrics = connection.request("GET", "/metrics", None, &clerk).await.text;
    assert!(metrics.contains("topic=\"orders.eu\"") && !metrics.contains("salaries"));
}

/// What a GET must not change: all that can be seen of a broker, besides how long it has run.
async fn visible(f: &Fixture) -> String {
    let mut seen = String::new();
    for (method, path) in posthaste_http::paths().filter(|(_, path)| path.starts_with("/v1/")) {
        if method == "GET" && !path.contains("status") && !path.contains("stream") {
            seen += &f.send("GET", &path.replace('*', "x"), None).await.text;
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn no_get_changes_anything_and_no_page_of_another_origin_is_answered() {
    let f = Fixture::new().await;
    for (kind, more) in
        [("topics", json!({})), ("queues", json!({})), ("exchanges", json!({"type": "topic"}))]
    {
        let mut body = more;
        body["name"] = json!("x");
        f.expect(201, "POST", &format!("/v1/{kind}"), Some(body)).await;
        let message = json!({"body": "kept"});
        f.expect(200, "POST", &format!("/v1/{kind}/x/messages"), Some(message)).await;
    }
    let before = visible(&f).await;
    assert!(before.contains("\"ready\":1"), "{before}");
    let strangers =
        ["Sec-Fetch-Site: cross-site\r\n", "Origin: http://evil.example\r\n", "Host: evil.example\r\n"];
    for (method, path) in posthaste_http::paths() {
        let path = path.replace('*', "x");
        for headers in strangers {
            // Whole, so that nothing but the origin is wrong with it.
            let headers = format!("{headers}Content-Type: application/json\r\nContent-Length: 0\r\n");
            let response = f.connect().await.request(method, &path, None, &headers).await;
            assert_eq!(response.status, 403, "{method} {path} {headers}");
        }
        // Also where the path has no GET: an image tag asks everywhere. Of a stream only the head is read.
        let mut connection = f.connect().await;
        connection.start("GET", &path, None, "").await;
        let head = connection.read_head().await;
        let is_get = posthaste_http::paths().any(|(m, p)| m == "GET" && p.replace('*', "x") == path);
        assert_eq!(head.status != 405, is_get, "GET {path}");
        assert_eq!(head.header("allow").is_some(), !is_get, "GET {path}");
    }
    assert_eq!(visible(&f).await, before);
    let taken = f.expect(200, "POST", "/v1/queues/x/get", Some(json!({}))).await;
    assert_eq!(taken["messages"][0]["body"], "kept");
    assert_eq!(taken["messages"][0]["redelivered"], false, "nobody had it meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_trail_has_each_log_in_once_and_what_administrators_were_shown() {
    let f = Fixture::audited().await;
    let guest = basic("guest", "guest");
    let mut connection = f.connect().await;
    for (method, path, body) in [
        ("POST", "/v1/queues", Some(json!({"name": "q"}))),
        ("POST", "/v1/queues/q/messages", Some(json!({"body": "planted-payload"}))),
        ("POST", "/v1/queues/q/get", Some(json!({}))),
        ("POST", "/v1/queues/q/get", Some(json!({}))),
    ] {
        let response = connection.request(method, path, body, &guest).await;
        assert!(response.status < 300, "{method} {path}");
    }
    let wrong =
        f.connect().await.request("GET", "/v1/topics", None, &basic("guest", "planted-password")).await;
    assert_eq!(wrong.status, 401);
    let path = "/v1/topics/audit/messages?namespace=posthaste&wait_ms=60000&from=";
    let (mut told, mut from) = (Vec::new(), 0);
    while told.len() < 4 {
        // The topic is made with the first event.
        let response = connection.request("GET", &format!("{path}{from}"), None, &guest).await;
        if response.status == 404 {
            continue;
        }
        let list = response.json();
        from = list["next"].as_u64().unwrap();
        told.extend(
            list["messages"].as_array().unwrap().iter().map(|m| m["body"].as_str().unwrap().to_owned()),
        );
    }
    let kinds: Vec<Json> =
        told.iter().map(|text| serde_json::from_str::<Json>(text).unwrap()["type"].clone()).collect();
    assert_eq!(
        kinds.iter().take(4).collect::<Vec<_>>(),
        ["posthaste.login", "posthaste.queue.created", "posthaste.payload.read", "posthaste.login.refused"]
    );
    assert!(!told.concat().contains("planted"), "{told:?}");
}
