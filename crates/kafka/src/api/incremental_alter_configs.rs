//! IncrementalAlterConfigs (44): changes single settings of topics (KIP-339).

use bytestring::ByteString;
use posthaste_engine::catalog::{Action, Resource};

use super::create_topics::Failure;
use super::describe_configs::{BROKER, TOPIC};
use crate::context::Context;
use crate::reply;
use crate::settings::{self, Change};
use crate::wire::ErrorCode;
use crate::wire::messages::incremental_alter_configs::{
    AlterConfigsResourceResponse, AlterableConfig, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};

pub async fn handle(
    cx: &Context,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let changes = resource.configs.iter().map(change).collect::<Result<Vec<_>, _>>();
        let altered = match changes {
            Ok(changes) => {
                let name = &resource.resource_name;
                alter(cx, resource.resource_type, name, true, changes, request.validate_only).await
            }
            Err(failure) => Err(failure),
        };
        let (error_code, error_message) = outcome(altered);
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

fn change(config: &AlterableConfig) -> Result<(&str, Change<'_>), Failure> {
    let value = config.value.as_deref();
    let change = match (config.config_operation, value) {
        (0, Some(value)) => Change::Set(value),
        (1, _) => Change::Delete,
        (2, Some(value)) => Change::Append(value),
        (3, Some(value)) => Change::Subtract(value),
        (0 | 2 | 3, None) => {
            let why = format!("Null value not supported for : {}", config.name);
            return Err((ErrorCode::InvalidConfig, why));
        }
        (other, _) => return Err((ErrorCode::InvalidRequest, format!("Unknown operation {other}"))),
    };
    Ok((&config.name, change))
}

/// Changes the settings of a topic; `keep` are those that are not named.
pub async fn alter(
    cx: &Context,
    resource_type: i8,
    name: &str,
    keep: bool,
    changes: Vec<(&str, Change<'_>)>,
    validate_only: bool,
) -> Result<(), Failure> {
    match resource_type {
        TOPIC => {}
        BROKER => {
            let why =
                "Settings of the broker are in its configuration file; they cannot be changed while it runs.";
            return Err((ErrorCode::InvalidConfig, why.to_owned()));
        }
        other => return Err((ErrorCode::InvalidRequest, format!("Unsupported resource type {other}"))),
    }
    let failure = |error: &posthaste_broker::Error| (reply::topic(error), error.to_string());
    cx.client.may(Action::Configure, Resource::Topic, name).map_err(|error| failure(&error))?;
    let topic = cx.client.topic(name).map_err(|error| failure(&error))?;
    let config = settings::alter(&topic.config, keep, changes, cx.broker().limits());
    let config = config.map_err(|why| (ErrorCode::InvalidConfig, why))?;
    if validate_only || config == topic.config {
        return Ok(());
    }
    cx.client.configure_topic(&topic.name, config).await.map_err(|error| failure(&error))
}

/// Code and message of a response.
pub fn outcome(result: Result<(), Failure>) -> (ErrorCode, Option<ByteString>) {
    match result {
        Ok(()) => (ErrorCode::None, None),
        Err((error_code, message)) => (error_code, Some(message.into())),
    }
}
