//! Commands about topics, queues and the rest.

use crate::support::{Broker, program, refused};

/// The rows of a table, its cells separated by one space.
fn rows(table: &str) -> Vec<String> {
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn topics() {
    let broker = Broker::start();
    assert_eq!(
        broker.run(&["topic", "create", "orders", "--partitions", "4"]),
        "created topic orders with 4 partitions\n"
    );
    broker.run(&[
        "topic",
        "create",
        "all",
        "--capture",
        "a.#",
        "--capture",
        "b.*",
        "--retention-ms",
        "60000",
        "--durability",
        "os",
    ]);
    let expect = [
        "NAME PARTITIONS MESSAGES BYTES DURABILITY CAPTURES",
        "all 1 0 0 os a.#, b.*",
        "orders 4 0 0 fsync -",
    ];
    assert_eq!(rows(&broker.run(&["topic", "list"])), expect);
    broker.run(&["topic", "alter", "orders", "--partitions", "6", "--retention-bytes", "1000"]);
    let shown: serde_json::Value =
        serde_json::from_str(&broker.run(&["topic", "describe", "orders", "--json"])).unwrap();
    assert_eq!((&shown["partitions"], &shown["retention_bytes"]), (&6.into(), &1000.into()));
    assert_eq!(shown["offsets"].as_array().unwrap().len(), 6);
    let text = broker.run(&["topic", "describe", "orders"]);
    assert!(text.starts_with("name ") && text.contains("\noffsets\npartition  start"), "{text}");
    assert_eq!(
        broker.run(&["topic", "create", "orders", "--if-not-exists"]),
        "topic orders exists already\n"
    );
    broker.run(&["topic", "delete", "orders"]);
    let names: serde_json::Value = serde_json::from_str(&broker.run(&["topic", "list", "--json"])).unwrap();
    assert_eq!(names.as_array().unwrap().iter().map(|t| &t["name"]).collect::<Vec<_>>(), ["all"]);
    // A name may hold what means something in a URL.
    broker.run(&["topic", "create", "a b/c?&%"]);
    assert!(broker.run(&["topic", "describe", "a b/c?&%"]).contains("a b/c?&%"));
}

#[test]
fn queues_exchanges_and_bindings() {
    let broker = Broker::start();
    broker.run(&["queue", "create", "work", "--ttl-ms", "5000", "--max-length", "7", "--overflow", "reject"]);
    broker.run(&[
        "queue",
        "create",
        "fast",
        "--transient",
        "--priorities",
        "5",
        "--dead-letter-exchange",
        "",
        "--dead-letter-subject",
        "work",
    ]);
    let listed = rows(&broker.run(&["queue", "list"]));
    assert_eq!(listed[1..], ["fast 0 0 0 0 priorities dead-letter", "work 0 0 0 0 durable ttl max-length"]);
    broker.run(&["exchange", "create", "news", "--type", "fanout"]);
    broker.run(&["exchange", "create", "by-header", "--type", "headers"]);
    assert_eq!(
        broker.run(&["binding", "create", "--exchange", "amq.topic", "--queue", "work", "--key", "orders.#"]),
        "bound work to amq.topic with orders.#\n"
    );
    broker.run(&["binding", "create", "news", "work"]);
    broker.run(&["binding", "create", "--exchange", "amq.topic", "--to-exchange", "news", "--key", "news.*"]);
    broker.run(&[
        "binding",
        "create",
        "by-header",
        "fast",
        "--header",
        "shop=7",
        "--header",
        "urgent",
        "--match",
        "any",
    ]);
    let listed = rows(&broker.run(&["binding", "list"]));
    let expect = [
        "EXCHANGE TO KEY HEADERS",
        "amq.topic exchange news news.* -",
        "amq.topic queue work orders.# -",
        "by-header queue fast - any of {\"shop\":\"7\",\"urgent\":null}",
        "news queue work - -",
    ];
    assert_eq!(listed, expect);
    assert_eq!(rows(&broker.run(&["binding", "list", "--queue", "work"])).len(), 3);
    assert_eq!(rows(&broker.run(&["binding", "describe", "amq.topic", "work"])).len(), 2);
    assert!(broker.run(&["exchange", "describe", "news"]).contains("bindings\nexchange"));
    broker.run(&["binding", "delete", "news", "work"]);
    assert_eq!(rows(&broker.run(&["binding", "list", "--exchange", "news"])).len(), 1);
    broker.run(&["pub", "--queue", "work", "a"]);
    assert_eq!(
        broker.refused(&["queue", "delete", "work", "--if-empty"]),
        (1, "posthaste: queue work: it is not empty\n".into())
    );
    assert_eq!(broker.run(&["queue", "purge", "work"]), "dropped 1 message of queue work\n");
    assert_eq!(
        broker.run(&["queue", "delete", "work", "--if-empty"]),
        "deleted queue work with 0 messages\n"
    );
    broker.run(&["exchange", "delete", "news"]);
    assert!(!broker.run(&["exchange", "list"]).contains("news"));
}

#[test]
fn users_and_namespaces() {
    let broker = Broker::start();
    broker.run(&["namespace", "create", "shop"]);
    broker.run(&["topic", "create", "orders", "--namespace", "shop"]);
    assert!(!broker.run(&["topic", "list"]).contains("orders"));
    assert_eq!(
        broker.feed(&["user", "create", "ann", "--allow", "read:topic:orders*@shop"], b"secret\n"),
        "created user ann\n"
    );
    // A client without credentials was an administrator until there was a user.
    let (code, text) = broker.refused(&["topic", "list"]);
    assert!(code == 1 && text.contains("log in as a user"), "{text}");
    let as_guest =
        |arguments: &[&'static str]| [arguments, &["--user", "guest", "--password", "guest"]].concat();
    let as_ann = |arguments: &[&'static str], password: &'static str| {
        let mut all = arguments.to_vec();
        all.extend(["--user", "ann", "--password", password, "-n", "shop"]);
        all
    };
    assert!(broker.run(&as_ann(&["topic", "list"], "secret")).contains("orders"));
    let (code, text) = broker.refused(&as_ann(&["topic", "create", "more"], "secret"));
    assert!(code == 1 && text.contains("'ann' may not configure topic 'more'"), "{text}");
    let (code, text) = broker.refused(&as_ann(&["topic", "list"], "wrong"));
    assert!(code == 1 && text.contains("--user and --password"), "{text}");
    broker.run(&as_guest(&["user", "alter", "ann", "--administrator", "--new-password", "other"]));
    broker.run(&as_ann(&["topic", "create", "more"], "other"));
    assert!(
        broker.run(&as_guest(&["user", "describe", "ann"])).contains("orders*"),
        "its permissions are gone"
    );
    broker.run(&as_guest(&["user", "delete", "ann"]));
    assert_eq!(broker.refused(&as_ann(&["topic", "list"], "other")).0, 1);
    broker.run(&["namespace", "delete", "shop"]);
    assert!(broker.run(&["group", "list"]).starts_with("NAME"));
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "orders"]);
    for (arguments, code, text) in [
        (&["topic", "create", "orders"][..], 1, "topic orders: it exists already"),
        (&["topic", "describe", "nothing"], 1, "there is no topic 'nothing'"),
        (&["topic", "create", "wide", "--partitions", "0"], 1, "partitions is from 1 to"),
        (&["topic", "lst"], 2, "similar subcommand exists: 'list'"),
        (&["topic", "create"], 2, "<NAME>"),
        (&["binding", "create", "amq.topic"], 2, "QUEUE"),
        (&["binding", "create", "--exchange", "amq.topic", "--key", "k"], 2, "--queue"),
        (&["binding", "create", "nowhere", "work"], 1, "there is no exchange 'nowhere'"),
        (&["exchange", "delete", "amq.topic"], 1, "exchange amq.topic: it belongs to the system"),
        (&["pub", "--topic", "nothing", "x"], 1, "there is no topic 'nothing'"),
        (&["pub", "x"], 2, "--subject"),
        (&["pub", "--topic", "orders", "-H", "shop", "x"], 2, "NAME=VALUE"),
        (&["pub", "--subject", "a", "--mandatory", "x"], 1, "takes 'a'"),
        (&["sub"], 2, "--topic"),
        (&["sub", "--topic", "orders", "--from", "noon"], 1, "'noon'"),
        (&["user", "create", "ann", "--allow", "look:topic:a"], 2, "'look' is no action"),
        (&["topic", "list", "--server", "localhost"], 1, "write a URL"),
        (&["topic", "list", "--password", "x"], 2, "--user"),
        (&["topic", "list", "--namespace", "nothing"], 1, "there is no namespace 'nothing'"),
    ] {
        let (found, message) = broker.refused(arguments);
        assert!(found == code && message.contains(text), "{arguments:?}: {found}, {message}");
    }
    // A port that nobody listens on, and that no other test is given.
    let (code, message) = refused(program(&["topic", "list", "--server", "http://127.0.0.1:1"]));
    assert!(code == 1 && message.contains("posthaste serve"), "{message}");
}
