//! `pub` and `sub`.

use crate::support::{Broker, finished};
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_topic_is_written_and_read() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "orders", "--partitions", "2"]);
    let published = broker.run(&[
        "pub",
        "--topic",
        "orders",
        "--key",
        "c1",
        "-H",
        "shop=7",
        "--content-type",
        "text/plain",
        "--correlation-id",
        "r-1",
        "--partition",
        "1",
        "hello",
    ]);
    assert_eq!(published, "published 1 message to orders: partition 1, offset 0\n");
    let read = broker.run(&["sub", "--topic", "orders", "--from", "beginning", "--count", "1"]);
    assert_eq!(read, "orders/1/0 [key=c1 correlation-id=r-1 content-type=text/plain shop=7] hello\n");
    // In order, also when there are more than one request holds.
    let input: String = (0..2_500).map(|n| format!("line {n}\n")).collect();
    let published =
        broker.feed(&["pub", "--topic", "orders", "--partition", "0", "--lines"], input.as_bytes());
    assert_eq!(published, "published 2500 messages to orders\n");
    let from = ["sub", "--topic", "orders", "--partition", "0", "--from", "10", "--count", "2490"];
    let all = lines(&broker.run(&[&from[..], &["--json"]].concat()));
    let expect: Vec<Value> = (10..2_500).map(|n| json!(format!("line {n}"))).collect();
    assert_eq!(all.iter().map(|m| m["body"].clone()).collect::<Vec<_>>(), expect);
    let raw = broker.run(&[&from[..], &["--raw"]].concat());
    assert_eq!(raw, input.lines().skip(10).map(|line| format!("{line}\n")).collect::<String>());
}

#[test]
fn bytes_that_are_no_text_arrive_as_they_are() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "blobs"]);
    let blob: Vec<u8> = (0..=255).rev().collect();
    let file = broker.folder().join("blob");
    std::fs::write(&file, &blob).unwrap();
    broker.run(&["pub", "--topic", "blobs", "--file", file.to_str().unwrap()]);
    let sub = ["sub", "--topic", "blobs", "--from", "beginning", "--count", "1"];
    let raw = finished(broker.command(&[&sub[..], &["--raw"]].concat()));
    assert_eq!(raw.stdout, [&blob[..], b"\n"].concat());
    assert!(broker.run(&sub).starts_with("blobs/0/0 base64://79/"));
}

#[test]
fn a_queue_is_filled_and_emptied() {
    let broker = Broker::start();
    broker.run(&["queue", "create", "work"]);
    broker.run(&["binding", "create", "amq.topic", "work", "--key", "orders.#"]);
    assert_eq!(
        broker.run(&["pub", "--subject", "orders.new", "a"]),
        "published 1 message to amq.topic: 1 queue\n"
    );
    broker.feed(&["pub", "--queue", "work", "--lines"], b"b\nc\n");
    broker.run(&["pub", "--queue", "work", "--count", "2", "d"]);
    let sub = |count| broker.run(&["sub", "--queue", "work", "--count", count]);
    assert_eq!(sub("3"), "orders.new a\nwork b\nwork c\n");
    // What was taken is done, and the rest is as it was.
    let state: Value = serde_json::from_str(&broker.run(&["queue", "describe", "work", "--json"])).unwrap();
    assert_eq!((&state["ready"], &state["leased"], &state["consumers"]), (&json!(2), &json!(0), &json!(0)));
    assert_eq!(sub("2"), "work d\nwork d\n");
}

#[test]
fn a_subject_is_listened_to_live() {
    let broker = Broker::start();
    let listening =
        broker.command(&["sub", "--subject", "orders.#", "--count", "1", "--json"]).spawn().unwrap();
    // It gets what is published once it listens.
    let mut tries = 0;
    while !broker.run(&["pub", "--subject", "orders.eu", "-H", "shop=7", "hello"]).contains("1 live reader") {
        tries += 1;
        assert!(tries < 1_000, "it does not listen");
    }
    let output = listening.wait_with_output().unwrap();
    assert!(output.status.success());
    let message = &lines(&String::from_utf8(output.stdout).unwrap())[0];
    assert_eq!((&message["subject"], &message["body"]), (&json!("orders.eu"), &json!("hello")));
}

#[test]
fn nobody_takes_it() {
    let broker = Broker::start();
    let output = finished(broker.command(&["pub", "--subject", "a.b", "x"]));
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody took 1"));
}

#[test]
fn the_stream_ends_with_its_topic() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "short"]);
    broker.run(&["pub", "--topic", "short", "last"]);
    let mut reading =
        broker.command(&["sub", "--topic", "short", "--from", "beginning", "--raw"]).spawn().unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(reading.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"last\n");
    broker.run(&["topic", "delete", "short"]);
    let output = reading.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("short"));
}
