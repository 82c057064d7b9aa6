use crate::support::*;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

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
        ("GET", "/v1/subjects/stream?pattern=%23", None, 403),
        ("GET", "/v1/users", None, 403),
        ("GET", "/v1/users/clerk", None, 200),
        ("GET", "/v1/users/guest", None, 403),
        ("PUT", "/v1/users/clerk", Some(json!({"administrator": true})), 403),
        ("POST", "/v1/users", Some(json!({"name": "x", "password": "y"})), 403),
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
