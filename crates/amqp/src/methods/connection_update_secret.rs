use crate::{
    connection::Connection,
    wire::{Exception, ReplyCode, connection},
};
use posthaste_broker::{Credentials, Origin};
use posthaste_net::Output;

impl Connection {
    /// `connection.update-secret`: a client that has logged in by a token goes on until the new one expires.
    /// Other credentials are looked at when a connection begins, as by RabbitMQ's own user store.
    pub(crate) async fn update_secret(
        &mut self,
        update: connection::UpdateSecret,
        origin: &Origin,
        out: &mut Output,
    ) -> Result<(), Exception> {
        if self.broker.milliseconds_left(self.client.principal()).is_some() {
            let refused =
                |why: &str| Exception::new(ReplyCode::NotAllowed, format_args!("new secret refused: {why}"));
            let token = std::str::from_utf8(&update.new_secret).unwrap_or_default();
            let principal = self.broker.log_in(origin, Credentials::Token(token)).await;
            let principal = principal.map_err(|error| refused(&error.to_string()))?;
            if !self.client.renew(&principal) {
                return Err(refused("it is not a token of the same user with the same groups"));
            }
        }
        self.send(0, &connection::UpdateSecretOk {}, out)
    }
}
