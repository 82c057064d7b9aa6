//! InitProducerId (22): an identity for an idempotent producer.

use crate::context::Context;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

/// A producer that is idempotent only gets a fresh id each time, also when it brings an old one: as in Kafka,
/// only transactional producers keep theirs (KIP-360).
pub async fn handle(cx: &Context, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    if request.transactional_id.is_some() {
        // Transactions are not offered. Every client takes this code for final.
        return failed(ErrorCode::TransactionalIdAuthorizationFailed);
    }
    match cx.client.producer_id().await {
        Ok(id) => match i64::try_from(id) {
            Ok(producer_id) => InitProducerIdResponse { producer_id, ..Default::default() },
            Err(_) => failed(ErrorCode::UnknownServerError),
        },
        Err(error) => failed(reply::group(&error)),
    }
}

fn failed(error_code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse { error_code, producer_epoch: -1, ..Default::default() }
}
