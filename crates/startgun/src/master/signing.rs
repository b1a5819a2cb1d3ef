//! Signing what sites answer in signed zones: at the start, at a reload, and again before the signatures end.

use super::reload::Reloader;
use crate::config::MasterConfig;
use crate::startup;
use ring::rand::SystemRandom;
use startgun_core::dns::sign::{ValidityPolicy, serial_s};
use startgun_core::master::{Service, SharedService};
use std::time::Duration;

/// How often the signatures are looked at. They are made anew with days to spare.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// The same service, signed for the next days.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn signed(mut service: Service, config: &MasterConfig) -> Result<Service, String> {
    let now_s = now_s();
    service
        .sign(&config.signers, &ValidityPolicy::default(), now_s, &SystemRandom::new())
        .map_err(|error| error.to_string())?;
    Ok(service)
}

/// Signs again whenever it is due, until the process ends.
pub(super) async fn renew(reloader: Reloader) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let service: SharedService = reloader.current.service();
        if service.is_signing_due(&ValidityPolicy::default(), now_s(), reloader.seed) {
            match reloader.sign_again().await {
                Ok(()) => tracing::info!("signed what sites answer for the next days"),
                Err(error) => tracing::error!(error, "signatures were not made anew; the old ones are served on"),
            }
        }
    }
}

fn now_s() -> u32 {
    serial_s((startup::unix_ns() / 1_000_000_000).unsigned_abs())
}
