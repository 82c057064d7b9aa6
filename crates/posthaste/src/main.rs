//! One broker that speaks Kafka, AMQP 0-9-1 and MQTT: the command line and the composition.
#![forbid(unsafe_code)]

mod configuration;
mod listeners;
mod serve;

use clap::{Args, CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// A message broker that speaks Kafka, AMQP 0-9-1 and MQTT on one durable engine.
#[derive(Parser)]
#[command(name = "posthaste", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker (what `posthaste` does without a command)
    Serve(Box<serve::Flags>),
    /// Print a shell's completion script
    Completions(Completions),
}

#[derive(Args)]
struct Completions {
    /// The shell to print it for
    shell: clap_complete::Shell,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(flags)) => serve::run(&flags),
        Some(Command::Completions(wanted)) => {
            let mut command = Cli::command();
            clap_complete::generate(wanted.shell, &mut command, "posthaste", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
    }
}
