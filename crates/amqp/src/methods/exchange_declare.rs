use crate::{
    arguments,
    connection::Connection,
    names,
    publishing::DELAYED_TYPE,
    reply,
    wire::{Exception, FieldTable, FieldValue, ReplyCode, ResourceKind, ShortString, exchange},
};
use posthaste_broker::Error;
use posthaste_engine::catalog::{Action, ExchangeKind, ExchangeSpec, Resource};
use posthaste_net::Output;

impl Connection {
    /// `exchange.declare`: creates an exchange, or makes sure that the one there is the same.
    pub(crate) async fn exchange_declare(
        &mut self,
        number: u16,
        declare: exchange::Declare,
        out: &mut Output,
    ) -> Result<(), Exception> {
        let name = names::stripped(&declare.exchange);
        if name.is_empty() {
            return Err(Exception::default_exchange());
        }
        let found = match self.find_exchange(&name) {
            Ok(found) => Some(found),
            Err(error) if declare.passive || error.reply_code != ReplyCode::NotFound => return Err(error),
            Err(_) => None,
        };
        match found {
            Some(_) if declare.passive => {}
            Some(found) => {
                // As RabbitMQ: to declare is to configure, also what is there.
                let may = self.client.may(Action::Configure, Resource::Exchange, &found.spec.name);
                may.map_err(|error| reply::exception(&error, self.exchange_resource(&name)))?;
                self.check_same_exchange(&found.spec, &declare, &name)?;
            }
            None => self.create_exchange(&declare, &name).await?,
        }
        self.answer(number, declare.no_wait, &exchange::DeclareOk {}, out)
    }

    async fn create_exchange(
        &self,
        declare: &exchange::Declare,
        name: &ShortString,
    ) -> Result<(), Exception> {
        if names::is_reserved(name) {
            return Err(Exception::reserved_prefix(ResourceKind::Exchange, name));
        }
        let resource = self.exchange_resource(name);
        let kind = self.exchange_kind(declare)?;
        let mut options = arguments::to_options(&declare.arguments);
        if declare.r#type == DELAYED_TYPE {
            options.insert("type".to_owned(), DELAYED_TYPE.to_owned());
        }
        let spec = ExchangeSpec {
            namespace: self.client.namespace().clone(),
            name: names::name(ResourceKind::Exchange, name)?,
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            alternate: arguments::alternate(&declare.arguments, resource)?,
            created_by: None,
            options,
        };
        match self.client.create_exchange(spec).await {
            Ok(()) => Ok(()),
            // Somebody else was faster.
            Err(Error::Exists) => {
                let found = self.find_exchange(name)?;
                self.check_same_exchange(&found.spec, declare, name)
            }
            Err(error) => Err(reply::exception(&error, resource)),
        }
    }

    fn exchange_kind(&self, declare: &exchange::Declare) -> Result<ExchangeKind, Exception> {
        let refused = |text: String| Err(Exception::new(ReplyCode::PreconditionFailed, text));
        if declare.r#type != DELAYED_TYPE {
            let unknown = || refused(format!("unknown exchange type '{}'", declare.r#type));
            return kind_of(declare.r#type.as_bytes()).map_or_else(unknown, Ok);
        }
        let by = declare.arguments.get("x-delayed-type").and_then(FieldValue::as_bytes);
        match by.and_then(|text| kind_of(text)) {
            Some(kind) => Ok(kind),
            None => {
                refused("Invalid argument, 'x-delayed-type' must be an existing exchange type".to_owned())
            }
        }
    }

    fn check_same_exchange(
        &self,
        current: &ExchangeSpec,
        declare: &exchange::Declare,
        name: &ShortString,
    ) -> Result<(), Exception> {
        let about = self.exchange_resource(name);
        let quoted = |text: &dyn std::fmt::Display| format!("'{text}'");
        let is = current.options.get("type").map_or_else(|| type_of(current.kind), String::as_str);
        if declare.r#type != *is {
            return Err(Exception::inequivalent_arg("type", about, quoted(&declare.r#type), quoted(&is)));
        }
        for (argument, received, is) in [
            ("durable", declare.durable, current.durable),
            ("auto_delete", declare.auto_delete, current.auto_delete),
            ("internal", declare.internal, current.internal),
        ] {
            if received != is {
                return Err(Exception::inequivalent_arg(argument, about, quoted(&received), quoted(&is)));
            }
        }
        let mut arguments = arguments::from_options(&current.options);
        if let (Some(alternate), false) = (&current.alternate, arguments.contains("alternate-exchange")) {
            arguments.push(ShortString::from_static("alternate-exchange"), alternate.to_string());
        }
        let compared: &[&str] = match is == DELAYED_TYPE {
            true => &["alternate-exchange", "x-delayed-type"],
            false => &["alternate-exchange"],
        };
        let check = |argument: &&str| -> Result<(), Exception> {
            let received: &FieldTable = &declare.arguments;
            arguments::check_equivalence(argument, &arguments, received, about)
        };
        compared.iter().try_for_each(check)
    }
}

fn kind_of(name: &[u8]) -> Option<ExchangeKind> {
    match name {
        b"direct" => Some(ExchangeKind::Direct),
        b"fanout" => Some(ExchangeKind::Fanout),
        b"headers" => Some(ExchangeKind::Headers),
        b"topic" => Some(ExchangeKind::Topic),
        _ => None,
    }
}

fn type_of(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Headers => "headers",
        ExchangeKind::Topic => "topic",
    }
}
