//! Places, the round trips between them, and where they are.

use startgun_core::time::Span;

/// Between two hosts at one place, there and back; no path is shorter.
pub const LOCAL_ROUND_TRIP: Span = Span::from_micros(200);
/// One part of a million.
const MILLION: f64 = 1e6;

/// The path between two places, as far as it is the same both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// There and back, without what changes from packet to packet.
    pub round_trip: Span,
    /// What changes.
    pub jitter: Jitter,
}

/// Packets that now and then wait for an exponential, at one end of a path or the other.
///
/// Where they wait matters in a race: all answers pass the client's end within moments, in the order in which they reach
/// it, so that a queue there is nobody's disadvantage. At the sites' ends each answer has its own luck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jitter {
    /// The mean wait.
    pub wait: Span,
    /// Of a million packets, either way, so many wait at the lower-numbered place's end.
    pub at_lower_ppm: u32,
    /// And so many at the other's.
    pub at_higher_ppm: u32,
}

impl Jitter {
    /// Of which is known how much longer than the least round trip the mean one is, in ms, and the standard deviation, in
    /// ms; and how much of it is the lower-numbered place's, from 0 to 1.
    ///
    /// Pings are mostly undisturbed, and now and then much later. Of the packets of one direction a share p waits for an
    /// exponential of mean t. The two directions together then have a mean of 2pt and a variance of 2(2pt² − p²t²), which
    /// gives t = (s²/2 + m²) / 2m and p = m / t, for m half of the mean and s the deviation. Where the deviation is too
    /// small for any exponential, all packets wait, for m in the mean.
    pub fn of(mean_excess_ms: f64, deviation_ms: f64, lower_share: f64) -> Jitter {
        let mean_ms = mean_excess_ms / 2.0;
        if mean_ms <= 0.0 || deviation_ms <= 0.0 {
            return Jitter::default();
        }
        let wait_ms = (deviation_ms * deviation_ms / 2.0 + mean_ms * mean_ms) / (2.0 * mean_ms);
        let (share, wait_ms) = if wait_ms > mean_ms { (mean_ms / wait_ms, wait_ms) } else { (1.0, mean_ms) };
        let at_lower_ppm = (share * lower_share.clamp(0.0, 1.0) * MILLION).round() as u32;
        let at_higher_ppm = ((share * MILLION).round() as u32).saturating_sub(at_lower_ppm);
        Jitter { wait: Span::from_millis_f64(wait_ms), at_lower_ppm, at_higher_ppm }
    }
}

impl Trip {
    /// A path without jitter.
    pub fn of(round_trip: Span) -> Trip {
        Trip { round_trip: round_trip.max(LOCAL_ROUND_TRIP), jitter: Jitter::default() }
    }
}

/// Places and what is known of the paths between them.
#[derive(Clone, Debug)]
pub struct Network {
    count: usize,
    trips: Vec<Option<Trip>>,
    distances_km: Option<Vec<f64>>,
}

impl Network {
    /// So many places, with the path between each pair as `trip` says; it is asked once, with the lower number first.
    pub fn new(count: usize, mut trip: impl FnMut(usize, usize) -> Option<Trip>) -> Network {
        let mut trips = vec![Some(Trip::of(LOCAL_ROUND_TRIP)); count * count];
        for one in 0..count {
            for other in one + 1..count {
                let known = trip(one, other);
                trips[one * count + other] = known;
                trips[other * count + one] = known;
            }
        }
        Network { count, trips, distances_km: None }
    }

    /// With the place of each on the globe, latitude and longitude in degrees.
    ///
    /// # Panics
    /// If that are not as many as there are places.
    pub fn with_coordinates(mut self, coordinates: &[(f64, f64)]) -> Network {
        assert_eq!(coordinates.len(), self.count, "a coordinate for each place");
        let all = coordinates.iter().flat_map(|one| coordinates.iter().map(|other| great_circle_km(*one, *other)));
        self.distances_km = Some(all.collect());
        self
    }

    /// These places alone, in this order.
    ///
    /// # Panics
    /// If one of them is not there.
    pub fn only(&self, places: &[usize]) -> Network {
        let pairs = || places.iter().flat_map(|&one| places.iter().map(move |&other| one * self.count + other));
        Network {
            count: places.len(),
            trips: pairs().map(|pair| self.trips[pair]).collect(),
            distances_km: self.distances_km.as_ref().map(|distances| pairs().map(|pair| distances[pair]).collect()),
        }
    }

    /// How many places there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The path between two places; `None` where nothing is known of it.
    pub fn trip(&self, one: usize, other: usize) -> Option<Trip> {
        self.trips[one * self.count + other]
    }

    /// How far two places are apart; `None` where nobody knows where places are.
    pub fn distance_km(&self, one: usize, other: usize) -> Option<f64> {
        self.distances_km.as_ref().map(|distances| distances[one * self.count + other])
    }

    /// Whether it is known where places are.
    pub fn has_coordinates(&self) -> bool {
        self.distances_km.is_some()
    }
}

/// The way over the globe between two coordinates, latitude and longitude in degrees, by the haversine.
pub fn great_circle_km(one: (f64, f64), other: (f64, f64)) -> f64 {
    /// The mean radius of the earth.
    const RADIUS_KM: f64 = 6_371.0;
    let (latitude, longitude) = (one.0.to_radians(), one.1.to_radians());
    let (other_latitude, other_longitude) = (other.0.to_radians(), other.1.to_radians());
    let half = ((latitude - other_latitude) / 2.0).sin().powi(2)
        + latitude.cos() * other_latitude.cos() * ((longitude - other_longitude) / 2.0).sin().powi(2);
    2.0 * RADIUS_KM * half.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_has_the_mean_and_the_deviation_that_it_was_made_from() {
        for (mean_ms, deviation_ms) in [(0.36, 0.61), (3.0, 9.0), (0.1, 0.2)] {
            let jitter = Jitter::of(mean_ms, deviation_ms, 0.25);
            let share = f64::from(jitter.at_lower_ppm + jitter.at_higher_ppm) / MILLION;
            assert!((f64::from(jitter.at_lower_ppm) / MILLION / share - 0.25).abs() < 1e-4, "{jitter:?}");
            let wait_ms = jitter.wait.as_millis_f64();
            let variance = 2.0 * (2.0 * share * wait_ms * wait_ms - (share * wait_ms).powi(2));
            assert!((2.0 * share * wait_ms - mean_ms).abs() < 1e-4, "mean {}", 2.0 * share * wait_ms);
            assert!((variance.sqrt() - deviation_ms).abs() < 1e-3, "deviation {}", variance.sqrt());
        }
        assert_eq!(Jitter::of(0.0, 3.0, 0.5), Jitter::default());
        assert_eq!(Jitter::of(3.0, 0.0, 0.5), Jitter::default());
        let always = Jitter { wait: Span::from_micros(1_500), at_lower_ppm: 0, at_higher_ppm: 1_000_000 };
        assert_eq!(Jitter::of(3.0, 0.5, 0.0), always);
    }

    #[test]
    fn the_way_over_the_globe() {
        // A quarter of the equator, and half a meridian, of 40,030 km.
        assert!((great_circle_km((0.0, 0.0), (0.0, 90.0)) - 10_007.5).abs() < 1.0);
        assert!((great_circle_km((90.0, 0.0), (-90.0, 77.0)) - 20_015.1).abs() < 1.0);
        assert!((great_circle_km((0.0, 179.0), (0.0, -179.0)) - 222.4).abs() < 0.1);
        assert_eq!(great_circle_km((48.1, 11.6), (48.1, 11.6)), 0.0);
    }

    #[test]
    fn a_pair_has_one_path_and_a_place_has_its_own() {
        let network = Network::new(3, |one, other| {
            assert!(one < other);
            (other == 2).then(|| Trip::of(Span::from_millis(one as i64)))
        });
        assert_eq!(network.trip(0, 1), None);
        assert_eq!(network.trip(2, 1), network.trip(1, 2));
        assert_eq!(network.trip(1, 2).map(|trip| trip.round_trip), Some(Span::from_millis(1)));
        assert_eq!(network.trip(0, 2).map(|trip| trip.round_trip), Some(LOCAL_ROUND_TRIP), "no path is shorter");
        assert_eq!(network.trip(1, 1).map(|trip| trip.round_trip), Some(LOCAL_ROUND_TRIP));
        assert_eq!(network.distance_km(0, 1), None);
    }
}
