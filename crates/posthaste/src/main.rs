//! One broker that speaks Kafka, AMQP 0-9-1 and MQTT: the command line and the composition.
#![forbid(unsafe_code)]

mod access;
mod check;
mod client;
mod configuration;
mod entrances;
mod listeners;
mod permission;
mod reload;
mod repair;
mod sealing;
mod serve;
mod tokens;
mod users;

use clap::{Args, CommandFactory, Parser, Subcommand};
use client::{
    About, binding, exchange, group, namespace, publish, queue, status, subscribe, topic, user, user_group,
};
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
    Status(Box<status::Flags>),
    Pub(Box<publish::Flags>),
    Sub(Box<subscribe::Flags>),
    /// Create, list, describe, alter and delete topics
    Topic(Box<About<topic::Command>>),
    /// Create, list, describe, alter, purge and delete queues
    Queue(Box<About<queue::Command>>),
    /// Create, list, describe and delete exchanges
    Exchange(Box<About<exchange::Command>>),
    /// Create, list, describe and delete bindings
    Binding(Box<About<binding::Command>>),
    /// List, describe and delete consumer groups
    Group(Box<About<group::Command>>),
    /// Create, list, describe and delete namespaces
    Namespace(Box<About<namespace::Command>>),
    /// Create, list, describe, alter and delete users
    User(Box<About<user::Command>>),
    /// Create, list, describe, alter and delete groups of users
    UserGroup(Box<About<user_group::Command>>),
    Check(check::Flags),
    Repair(repair::Flags),
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
        Some(Command::Status(flags)) => flags.run(),
        Some(Command::Pub(flags)) => flags.run(),
        Some(Command::Sub(flags)) => flags.run(),
        Some(Command::Topic(about)) => about.run(topic::run),
        Some(Command::Queue(about)) => about.run(queue::run),
        Some(Command::Exchange(about)) => about.run(exchange::run),
        Some(Command::Binding(about)) => about.run(binding::run),
        Some(Command::Group(about)) => about.run(group::run),
        Some(Command::Namespace(about)) => about.run(namespace::run),
        Some(Command::User(about)) => about.run(user::run),
        Some(Command::UserGroup(about)) => about.run(user_group::run),
        Some(Command::Check(flags)) => flags.run(),
        Some(Command::Repair(flags)) => flags.run(),
        Some(Command::Completions(wanted)) => {
            let mut script = Vec::new();
            clap_complete::generate(wanted.shell, &mut Cli::command(), "posthaste", &mut script);
            // Whoever closes the pipe has read enough.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), &script);
            ExitCode::SUCCESS
        }
    }
}
