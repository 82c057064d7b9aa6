//! Access keys: made by the command line, good in every protocol, gone when they are taken away.

use crate::support::{Broker, program};
use serde_json::{Value, json};
use std::fs;

const GUEST: [&str; 4] = ["--user", "guest", "--password", "guest"];
const ALL: [&str; 8] =
    ["--listen", "kafka=off", "--listen", "amqp=off", "--listen", "mqtt=off", "--listen", "http=127.0.0.1:0"];

fn as_guest<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &GUEST].concat()
}

fn made(broker: &Broker, user: &str) -> (String, String) {
    let text = broker.run(&as_guest(&["user", "create-access-key", user, "--json"]));
    let made: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(made["user"], user);
    (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
}

#[test]
fn a_user_may_have_several_and_keeps_them_until_they_are_taken() {
    let broker = Broker::start();
    broker.run(&["user", "create", "ann", "--allow", "read:topic:*", "--new-password", "pw"]);
    broker.run(&as_guest(&["topic", "create", "t"]));
    let (first, second) = (made(&broker, "ann"), made(&broker, "ann"));
    assert!(first.0.starts_with("PHAK") && first != second);
    let describe = |key: &(String, String)| {
        let (id, secret) = key;
        broker.command(&["topic", "describe", "t", "--user", id, "--password", secret]).output().unwrap()
    };
    assert!(describe(&first).status.success() && describe(&second).status.success());
    let wrong = describe(&(first.0.clone(), second.1.clone()));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--user and --password"), "{wrong:?}");
    // An alteration of the user leaves them.
    broker.run(&as_guest(&["user", "alter", "ann", "--new-password", "other"]));
    let shown = broker.run(&as_guest(&["user", "describe", "ann", "--json"]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let ids: Vec<_> = shown["access_keys"].as_array().unwrap().iter().map(|key| &key["id"]).collect();
    assert_eq!(ids, [&json!(first.0), &json!(second.0)]);
    assert!(!shown.to_string().contains(&first.1) && !shown.to_string().contains("sealed"));
    assert!(describe(&second).status.success());

    broker.run(&as_guest(&["user", "delete-access-key", "ann", &first.0]));
    assert!(!describe(&first).status.success() && describe(&second).status.success());
    for (arguments, says) in [
        (&["user", "delete-access-key", "ann", "PHAKNONE"][..], "no access key"),
        (&["user", "create-access-key", "nobody"], "no user 'nobody'"),
        (&["user", "create", &second.0, "--new-password", "x"], "another user's"),
    ] {
        let (code, said) = broker.refused(&as_guest(arguments));
        assert!(code == 1 && said.contains(says), "{arguments:?}: {said}");
    }
    let taken = ["user", "create-access-key", "guest", "--id", &second.0];
    let mut child = broker.command(&as_guest(&taken)).stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"a secret of its own\n").unwrap();
    assert!(
        !child.wait_with_output().unwrap().status.success(),
        "the id is taken, and the secret has spaces"
    );
}

#[test]
fn they_survive_a_restart_with_their_sealing_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let start = |more: &[&str]| {
        let mut command = program(&["serve", "--log", "off", "--data", data.to_str().unwrap()]);
        command.args(ALL).args(more);
        Broker::spawn(command)
    };
    let broker = start(&[]);
    broker.run(&["user", "create", "ann", "--administrator", "--new-password", "pw"]);
    let (id, secret) = made(&broker, "ann");
    let asks = |broker: &Broker| {
        broker.command(&["status", "--user", &id, "--password", &secret]).output().unwrap().status.success()
    };
    assert!(asks(&broker));
    assert!(broker.stop());
    let broker = start(&[]);
    assert!(asks(&broker));
    assert!(broker.stop());

    // The same key, kept elsewhere.
    let elsewhere = folder.path().join("key");
    fs::rename(data.join("sealing.key"), &elsewhere).unwrap();
    let configuration = folder.path().join("posthaste.toml");
    let text = format!("[access]\nsealing_key = '{}'\n", elsewhere.display());
    fs::write(&configuration, text).unwrap();
    let with = ["--config", configuration.to_str().unwrap()];
    let broker = start(&with);
    assert!(asks(&broker) && !data.join("sealing.key").exists());
    assert!(broker.stop());

    // Another one: the broker starts, and the access key is good for nothing.
    let broker = start(&[]);
    assert!(!asks(&broker));
    broker.run(&["status", "--user", "ann", "--password", "pw"]);
    assert!(broker.stop());
    fs::write(&elsewhere, "too short").unwrap();
    let output = program(&["serve", "--data", data.to_str().unwrap(), with[0], with[1]]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("sealing_key") && said.contains("openssl rand"),
        "{said}"
    );
}
