//! The methods that clients send, one file each, named as in the specification.

mod access_request;
mod basic_ack;
mod basic_cancel;
mod basic_consume;
mod basic_get;
mod basic_nack;
mod basic_publish;
mod basic_qos;
mod basic_recover;
mod basic_reject;
mod binding;
mod channel_close;
mod channel_flow;
mod confirm_select;
mod connection_update_secret;
mod exchange_bind;
mod exchange_declare;
mod exchange_delete;
mod exchange_unbind;
mod queue_bind;
mod queue_declare;
mod queue_delete;
mod queue_purge;
mod queue_unbind;
