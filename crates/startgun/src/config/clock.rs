//! Where a host takes UTC from: keys of the table `[clock]` that master and agent share.

use startgun_core::time::Span;
use startgun_net::host_time::{HostChoice, HostSource, HostTimeOptions, PhcOptions};

use super::reader::Section;

/// Range of a stated bound, in milliseconds: no host's clock is known to better than a microsecond, and with a bound of
/// ten seconds nothing races.
const BOUND_MS: std::ops::RangeInclusive<f64> = 0.001..=10_000.0;
/// Greatest difference of a hardware clock's scale, in seconds: TAI − UTC is 37 and grew by 27 in 45 years.
const SCALE_S_MAX: i64 = 1_000;

/// What `host_source` may be.
const CHOICES: [(&str, HostChoice); 5] = [
    ("auto", HostChoice::Auto),
    ("kernel", HostChoice::Only(HostSource::Kernel)),
    ("clock-bound", HostChoice::Only(HostSource::ClockBound)),
    ("phc", HostChoice::Only(HostSource::Phc)),
    ("none", HostChoice::Nothing),
];

/// Reads the host clock's keys; the caller finishes the section.
pub(super) fn read_host_time(section: &Section<'_>) -> HostTimeOptions {
    let choice = section.or("host_source", HostChoice::Auto, |value| value.word(&CHOICES));
    let word = CHOICES.iter().find(|(_, known)| *known == choice).map_or("", |(word, _)| word);
    let (bound, device) = (section.value("host_bound_ms"), section.value("phc_device"));
    let (scale, path) = (section.value("phc_minus_utc_s"), section.value("clock_bound_path"));
    let is_phc = choice == HostChoice::Only(HostSource::Phc);
    let has_own_bound = matches!(choice, HostChoice::Only(HostSource::ClockBound) | HostChoice::Nothing);
    let asks_daemon = matches!(choice, HostChoice::Auto | HostChoice::Only(HostSource::ClockBound));
    let beside = |key: &str| format!("{key} beside host_source = {word:?}");
    let misplaced = [
        (&bound, "host_bound_ms", has_own_bound, "it with \"auto\", \"kernel\" or \"phc\" only"),
        (&device, "phc_device", !is_phc, "it with \"phc\" only"),
        (&scale, "phc_minus_utc_s", !is_phc, "it with \"phc\" only"),
        (&path, "clock_bound_path", !asks_daemon, "it with \"auto\" or \"clock-bound\" only"),
    ];
    for (value, key, _, expected) in misplaced.into_iter().filter(|(.., is_misplaced, _)| *is_misplaced) {
        if let Some(value) = value {
            value.fault::<()>(beside(key), expected);
        }
    }
    let needed = [
        (&device, "phc_device", "the device of the hardware clock, such as \"/dev/ptp0\""),
        (&scale, "phc_minus_utc_s", "what the hardware clock shows more than UTC: 37 where it counts TAI, 0 for UTC"),
        (&bound, "host_bound_ms", "how far the hardware clock may be off; nothing else tells"),
    ];
    for (_, key, expected) in needed.into_iter().filter(|(value, ..)| is_phc && value.is_none()) {
        section.missing::<()>(key, expected);
    }
    let device = device.and_then(|value| value.path());
    let scale = scale.and_then(|value| value.integer::<i64>(-SCALE_S_MAX..=SCALE_S_MAX, "seconds"));
    HostTimeOptions {
        choice,
        stated_bound: bound.and_then(|value| value.milliseconds(BOUND_MS)),
        phc: device.zip(scale).map(|(device, scale)| PhcOptions { device, minus_utc: Span::from_secs(scale) }),
        clock_bound_path: path.and_then(|value| value.path()),
    }
}
