//! Kafka for Posthaste.
//!
//! [`wire`] is the protocol as bytes: frames, requests, responses, record batches. It knows no broker and
//! does no I/O.
#![forbid(unsafe_code)]

pub mod wire;
