//! The Kafka protocol as bytes: frames, requests, responses and record batches.
//!
//! [`split_frame`] cuts the byte stream into frames, [`decode_request`] makes a [`Request`] of one,
//! [`encode_response`] makes a [`Frame`] of the answer. [`SUPPORTED`] is the one list of what is spoken;
//! everything that depends on versions derives from it. [`records`] is the inside of what Produce and Fetch
//! carry.
//!
//! No I/O, no clock, no broker. Bytes from a peer cost at most a fixed multiple of their own length in
//! memory.

mod api;
mod error_code;
mod frame;
mod fuzz;
pub mod limits;
pub mod messages;
#[cfg(test)]
mod oracle_tests;
mod reader;
pub mod records;
#[cfg(test)]
mod sampler;
mod schema;
mod writer;

pub use api::{
    ApiKey, ApiRange, Request, RequestBody, RequestError, RequestHeader, ResponseBody, SUPPORTED,
    decode_request, decode_response, encode_request, encode_response, offered,
};
pub use error_code::ErrorCode;
pub use frame::{Frame, FrameError, LENGTH_BYTES, split_frame};
pub use fuzz::fuzz_decode;
pub use reader::{DecodeError, Fault, Reader};
pub use schema::{Nullable, Uuid, Wire};
pub use writer::{EncodeError, Writer};
