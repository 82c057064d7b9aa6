//! Sequences of operations in a protocol's sessions, made of a fuzzer's bytes: most are valid, some nearly,
//! some are raw octets. Each runs against a broker of its own: real adapter, engine and journal, on one
//! thread and a disk in memory.
//!
//! After each sequence the broker must have panicked nowhere, must have come to rest, must serve a new
//! connection, and must be rebuilt from its journal as it was.

mod amqp;
mod input;
mod kafka;
mod line;
mod mqtt;
mod world;

use crate::panics;
use anyhow::Result;

/// AMQP 0-9-1. Panics when the broker did something wrong.
pub fn fuzz_amqp(data: &[u8]) {
    fuzz(data, amqp::session);
}

/// Kafka. Panics when the broker did something wrong.
pub fn fuzz_kafka(data: &[u8]) {
    fuzz(data, kafka::session);
}

/// MQTT 3.1.1 and 5. Panics when the broker did something wrong.
pub fn fuzz_mqtt(data: &[u8]) {
    fuzz(data, mqtt::session);
}

fn fuzz<F: Future<Output = Result<()>> + 'static>(
    data: &[u8],
    session: impl FnOnce(crate::clients::Doors, Vec<u8>) -> F,
) {
    let data = data.to_owned();
    let (outcome, panics) = panics::caught(|| world::run(|doors| session(doors, data)));
    if !panics.is_empty() {
        panic!("{}", panics.join("; "));
    }
    if let Some(Err(error)) = outcome {
        panic!("{error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        panic::{AssertUnwindSafe, catch_unwind},
        path::Path,
    };

    /// What was found once stays fixed: the inputs of the corpus are those of `cargo xtask fuzz`.
    fn check(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let mut inputs = 0;
        for entry in fs::read_dir(folder).unwrap() {
            run(&fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0);
    }

    fn complaint(session: impl FnOnce() -> Result<()> + 'static) -> String {
        let work = AssertUnwindSafe(|| fuzz(&[], |_, _| async { session() }));
        let said = catch_unwind(work).expect_err("nothing was said");
        said.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    fn what_goes_wrong_in_a_session_is_said() {
        let refused = complaint(|| anyhow::bail!("a client is not served"));
        assert!(refused.contains("a client is not served"), "{refused}");
        let panicked = complaint(|| {
            // As the driver of a connection contains it.
            let _ = catch_unwind(|| panic!("on a connection"));
            Ok(())
        });
        assert!(panicked.contains("on a connection"), "{panicked}");
    }

    #[test]
    fn amqp_sequences_of_the_corpus_pass() {
        check("amqp-session", fuzz_amqp);
    }

    #[test]
    fn kafka_sequences_of_the_corpus_pass() {
        check("kafka-session", fuzz_kafka);
    }

    #[test]
    fn mqtt_sequences_of_the_corpus_pass() {
        check("mqtt-session", fuzz_mqtt);
    }
}
