//! FindCoordinator (10): this broker coordinates every group.

use bytestring::ByteString;

use crate::context::Context;
use crate::names::{Endpoint, NODE_ID, group_name};
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub fn handle(cx: &Context, version: i16, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
    if version >= 4 {
        let keys = request.coordinator_keys.iter();
        let coordinators = keys.map(|key| find(cx, key, request.key_type)).collect();
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let found = find(cx, &request.key, request.key_type);
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

fn find(cx: &Context, key: &ByteString, key_type: i8) -> Coordinator {
    let found = match key_type {
        GROUP => group(cx, key),
        // Every client takes this code for final, and shows the message or itself says who is not allowed.
        TRANSACTION => Err((
            ErrorCode::TransactionalIdAuthorizationFailed,
            "transactions are not offered by this broker".to_owned(),
        )),
        other => Err((ErrorCode::InvalidRequest, format!("there is no coordinator of type {other}"))),
    };
    match found {
        Ok(endpoint) => Coordinator {
            key: key.clone(),
            node_id: NODE_ID,
            host: endpoint.host,
            port: endpoint.port,
            ..Default::default()
        },
        Err((error_code, message)) => Coordinator {
            key: key.clone(),
            node_id: -1,
            port: -1,
            error_code,
            error_message: Some(message.into()),
            ..Default::default()
        },
    }
}

fn group(cx: &Context, key: &str) -> Result<Endpoint, (ErrorCode, String)> {
    let name = group_name(key).map_err(|code| (code, "a group's name has 1 to 255 bytes".to_owned()))?;
    cx.may_describe_group(&name).map_err(|error| (reply::group(&error), error.to_string()))?;
    Ok(cx.endpoint())
}
