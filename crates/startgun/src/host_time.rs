//! Asks this host's clock where UTC lies, once a second, and logs when an answer begins or ceases to be had.
//!
//! It runs on the control plane's thread: a reading may search `/proc`, and no packet may wait for that.

use startgun_net::host_clock::HostClock;
use startgun_net::host_time::{HostTime, HostTimeReader};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it asks; a statement counts for ten seconds.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the host's clock last said, in words, for `status`.
#[derive(Clone, Debug)]
pub struct HostTimeText(Arc<Mutex<String>>);

impl HostTimeText {
    /// Nothing was asked yet.
    pub fn new() -> Self {
        HostTimeText(Arc::new(Mutex::new("not asked yet".into())))
    }

    /// The words.
    pub fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// Asks until the process ends; `tell` hears every answer, and nothing where there is none.
pub async fn watch(
    mut reader: HostTimeReader,
    clock: HostClock,
    text: HostTimeText,
    tell: impl AsyncFn(Option<HostTime>),
) {
    let mut interval = tokio::time::interval(INTERVAL);
    // Empty: nothing was said yet.
    let mut said = String::new();
    loop {
        interval.tick().await;
        let answer = reader.read(&clock);
        let (words, figures) = match &answer {
            Ok(time) => {
                let stated = if time.stated { ", stated by the operator" } else { "" };
                let words = format!("UTC by the {} clock{stated}", time.source.word());
                let figures = format!("{words}, bound {:.3} ms", time.bound.as_millis_f64());
                (words, figures)
            }
            Err(reason) => (format!("not used: {reason}"), format!("not used: {reason}")),
        };
        if words != said {
            tracing::info!("host clock: {figures}");
            said = words;
        }
        text.set(figures);
        tell(answer.ok()).await;
    }
}
