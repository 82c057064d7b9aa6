//! The Rust client programs: `conformance-rust amqp|mqtt PROTOCOL=HOST:PORT...`.

mod checks;
mod lapin_checks;
mod rumqttc_v4;
mod rumqttc_v5;

use std::collections::HashMap;
use std::env;
use std::process::ExitCode;

use checks::Checks;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let program = arguments.next().unwrap_or_default();
    let addresses: HashMap<String, String> = arguments
        .filter_map(|argument| {
            argument.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect();
    let Some(address) = addresses.get(&program) else {
        eprintln!("usage: conformance-rust amqp|mqtt PROTOCOL=HOST:PORT...");
        return ExitCode::from(2);
    };
    let mut checks = Checks::default();
    match program.as_str() {
        "amqp" => lapin_checks::run(&mut checks, address).await,
        "mqtt" => {
            rumqttc_v4::run(&mut checks, address).await;
            rumqttc_v5::run(&mut checks, address).await;
        }
        _ => {}
    }
    checks.finish()
}
