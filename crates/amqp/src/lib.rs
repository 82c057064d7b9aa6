//! AMQP 0-9-1 as RabbitMQ speaks it.
//!
//! [`wire`] is the codec: it knows neither I/O nor the broker.
#![forbid(unsafe_code)]

pub mod wire;
