//! DescribeConfigs (32): settings of topics and of the broker, and where each comes from.

use bytestring::ByteString;
use posthaste_engine::catalog::{Action, Resource};

use super::create_topics::Failure;
use crate::context::Context;
use crate::names::NODE_ID;
use crate::settings::broker::{BrokerKind, BrokerSetting};
use crate::settings::{self, Setting};
use crate::wire::ErrorCode;
use crate::wire::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};

/// Types of resources.
pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;

/// Where a setting comes from.
pub const DYNAMIC_TOPIC: i8 = 1;
const STATIC_BROKER: i8 = 4;
pub const DEFAULT: i8 = 5;

pub fn handle(cx: &Context, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.iter().map(|resource| {
        let (configs, error_code, error_message) = match describe(cx, resource) {
            Ok(configs) => (configs, ErrorCode::None, None),
            Err((error_code, message)) => (Vec::new(), error_code, Some(message.into())),
        };
        let wanted = |name: &str| {
            let keys = resource.configuration_keys.as_ref();
            keys.is_none_or(|keys| keys.is_empty() || keys.iter().any(|key| *key == *name))
        };
        let finish = |mut config: DescribeConfigsResourceResult| {
            if !request.include_synonyms {
                config.synonyms.clear();
            }
            config.documentation = config.documentation.filter(|_| request.include_documentation);
            config
        };
        DescribeConfigsResult {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            configs: configs.into_iter().filter(|config| wanted(&config.name)).map(finish).collect(),
        }
    });
    DescribeConfigsResponse { results: results.collect(), ..Default::default() }
}

fn describe(
    cx: &Context,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, Failure> {
    let name = &*resource.resource_name;
    match resource.resource_type {
        TOPIC => topic(cx, name),
        // As in Kafka, the broker's settings are not for everybody.
        BROKER => {
            let namespace = cx.client.namespace();
            let may = cx.client.may(Action::Configure, Resource::Namespace, namespace);
            may.map_err(|error| (crate::reply::topic(&error), error.to_string()))?;
            broker(cx, name)
        }
        other => Err((ErrorCode::InvalidRequest, format!("Unsupported resource type {other}"))),
    }
}

fn broker(cx: &Context, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, Failure> {
    match name {
        _ if name == NODE_ID.to_string() => {
            Ok(settings::broker::settings(cx.broker()).into_iter().map(broker_setting).collect())
        }
        // Defaults that were set for all brokers while they ran: there are none.
        "" => Ok(Vec::new()),
        _ => {
            let why =
                format!("Unexpected broker id, expected {NODE_ID} or empty string, but received {name}");
            Err((ErrorCode::InvalidRequest, why))
        }
    }
}

fn topic(cx: &Context, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, Failure> {
    cx.may_describe_topic(name).map_err(|error| (crate::reply::topic(&error), error.to_string()))?;
    let catalog = cx.catalog();
    let namespace = catalog.namespace(cx.client.namespace());
    let topic = namespace.and_then(|namespace| namespace.topics.get(name));
    let topic =
        topic.ok_or_else(|| (ErrorCode::UnknownTopicOrPartition, format!("there is no topic '{name}'")))?;
    let limits = cx.broker().limits();
    let show = |(setting, value, set): (&'static Setting, String, bool)| {
        let default = setting.default(limits);
        topic_setting(setting, value, set, default)
    };
    Ok(settings::describe(&topic.config, limits).into_iter().map(show).collect())
}

fn topic_setting(
    setting: &'static Setting,
    value: String,
    set: bool,
    default: String,
) -> DescribeConfigsResourceResult {
    let value: ByteString = value.into();
    let mut synonyms = Vec::new();
    if set {
        synonyms.push(synonym(setting.name, value.clone(), DYNAMIC_TOPIC));
    }
    if let Some(name) = setting.synonym {
        synonyms.push(synonym(name, default.into(), DEFAULT));
    }
    DescribeConfigsResourceResult {
        name: setting.name.into(),
        value: Some(value),
        read_only: setting.is_fixed(),
        config_source: if set { DYNAMIC_TOPIC } else { DEFAULT },
        is_sensitive: false,
        synonyms,
        config_type: config_type(BrokerKind::of(&setting.kind)),
        documentation: Some(setting.documentation.into()),
    }
}

fn broker_setting(setting: BrokerSetting) -> DescribeConfigsResourceResult {
    let source = if setting.configured { STATIC_BROKER } else { DEFAULT };
    let value: ByteString = setting.value.into();
    DescribeConfigsResourceResult {
        name: setting.name.into(),
        value: Some(value.clone()),
        read_only: true,
        config_source: source,
        is_sensitive: false,
        synonyms: vec![synonym(setting.name, value, source)],
        config_type: config_type(setting.kind),
        documentation: None,
    }
}

fn synonym(name: &'static str, value: ByteString, source: i8) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym { name: name.into(), value: Some(value), source }
}

fn config_type(kind: BrokerKind) -> i8 {
    match kind {
        BrokerKind::Boolean => 1,
        BrokerKind::String => 2,
        BrokerKind::Int => 3,
        BrokerKind::Short => 4,
        BrokerKind::Long => 5,
        BrokerKind::Double => 6,
        BrokerKind::List => 7,
    }
}
