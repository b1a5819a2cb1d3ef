//! A model of world cities, for a forecast without measured round trips.
//!
//! A round trip is the way over the globe and back at the speed of light in fibre, times by how much the cable's way is
//! longer, detours, and the access lines at both ends. Cables follow coasts, money and politics: detours differ from pair
//! to pair, or the nearest site by distance would always be the best, and nobody would need to race. What is drawn here
//! comes from a seed of its own, so that this is one and the same world for every forecast.
//!
//! It is a model: what it shows of a choice in general is about right, what it says of two given cities is not.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use startgun_core::time::Span;
use startgun_sim::forecast::{Jitter, Network, Trip, great_circle_km};

/// Light in fibre, there and back: 200 km per ms, one way.
const KM_PER_MS: f64 = 100.0;
/// The shortest cables' way is longer than the globe's by this factor: roads, and amplifiers.
const INFLATION_LEAST: f64 = 1.3;
/// Detours, in ms, are exponential; their mean is this for a fibre of one ms, there and back, and grows with the root of
/// it: a long way has much choice. A round trip over 350 km then has a median of 17 ms, over 1,500 km of 41 ms, over 6,000 km
/// of 115 ms, over 15,000 km of 251 ms, and in one pair of ten twice as much, as round trips between hosting companies have.
const DETOUR_MEAN_MS: f64 = 6.0;
/// Each city's access line, there and back in ms: at least, and so much more in the mean.
const ACCESS_LEAST_MS: f64 = 0.5;
const ACCESS_MORE_MEAN_MS: f64 = 2.0;
/// Queueing, of one packet in three, at either end: as long in the mean as round trips between hosting companies show.
const JITTER: Jitter = Jitter { wait: Span::from_micros(700), at_lower_ppm: 150_000, at_higher_ppm: 150_000 };
/// Of what is drawn.
const SEED: u64 = 0x0063_6974_6965_7300;

/// Cities, with latitude and longitude in degrees.
pub const CITIES: [(&str, f64, f64); 156] = [
    ("Abidjan", 5.32, -4.03),
    ("Accra", 5.6, -0.19),
    ("Addis Ababa", 9.01, 38.75),
    ("Adelaide", -34.93, 138.6),
    ("Algiers", 36.75, 3.06),
    ("Almaty", 43.24, 76.89),
    ("Amman", 31.95, 35.93),
    ("Amsterdam", 52.37, 4.9),
    ("Antananarivo", -18.88, 47.51),
    ("Asunción", -25.28, -57.63),
    ("Athens", 37.98, 23.73),
    ("Atlanta", 33.75, -84.39),
    ("Auckland", -36.85, 174.76),
    ("Baghdad", 33.31, 44.36),
    ("Baku", 40.41, 49.87),
    ("Bangkok", 13.76, 100.5),
    ("Barcelona", 41.39, 2.17),
    ("Beijing", 39.9, 116.41),
    ("Beirut", 33.89, 35.5),
    ("Belgrade", 44.79, 20.45),
    ("Bengaluru", 12.97, 77.59),
    ("Berlin", 52.52, 13.4),
    ("Bogotá", 4.71, -74.07),
    ("Boston", 42.36, -71.06),
    ("Brasília", -15.79, -47.88),
    ("Bratislava", 48.15, 17.11),
    ("Brisbane", -27.47, 153.03),
    ("Brussels", 50.85, 4.35),
    ("Bucharest", 44.43, 26.1),
    ("Budapest", 47.5, 19.04),
    ("Buenos Aires", -34.6, -58.38),
    ("Cairo", 30.04, 31.24),
    ("Calgary", 51.05, -114.07),
    ("Cape Town", -33.92, 18.42),
    ("Caracas", 10.48, -66.9),
    ("Casablanca", 33.57, -7.59),
    ("Chennai", 13.08, 80.27),
    ("Chicago", 41.88, -87.63),
    ("Colombo", 6.93, 79.86),
    ("Copenhagen", 55.68, 12.57),
    ("Curitiba", -25.43, -49.27),
    ("Dakar", 14.72, -17.47),
    ("Dallas", 32.78, -96.8),
    ("Dar es Salaam", -6.79, 39.21),
    ("Delhi", 28.61, 77.21),
    ("Denver", 39.74, -104.99),
    ("Dhaka", 23.81, 90.41),
    ("Doha", 25.29, 51.53),
    ("Dubai", 25.2, 55.27),
    ("Dublin", 53.35, -6.26),
    ("Durban", -29.86, 31.02),
    ("Edinburgh", 55.95, -3.19),
    ("Fortaleza", -3.73, -38.53),
    ("Frankfurt", 50.11, 8.68),
    ("Fukuoka", 33.59, 130.4),
    ("Geneva", 46.2, 6.14),
    ("Guadalajara", 20.67, -103.35),
    ("Guatemala City", 14.63, -90.51),
    ("Guayaquil", -2.19, -79.89),
    ("Hamburg", 53.55, 9.99),
    ("Hanoi", 21.03, 105.85),
    ("Harare", -17.83, 31.05),
    ("Helsinki", 60.17, 24.94),
    ("Ho Chi Minh City", 10.82, 106.63),
    ("Hong Kong", 22.32, 114.17),
    ("Honolulu", 21.31, -157.86),
    ("Houston", 29.76, -95.37),
    ("Hyderabad", 17.39, 78.49),
    ("Istanbul", 41.01, 28.98),
    ("Jakarta", -6.21, 106.85),
    ("Jeddah", 21.49, 39.19),
    ("Johannesburg", -26.2, 28.05),
    ("Kampala", 0.35, 32.58),
    ("Karachi", 24.86, 67.0),
    ("Kathmandu", 27.72, 85.32),
    ("Kinshasa", -4.44, 15.27),
    ("Kolkata", 22.57, 88.36),
    ("Kuala Lumpur", 3.139, 101.69),
    ("Kuwait City", 29.38, 47.99),
    ("Kyiv", 50.45, 30.52),
    ("Lagos", 6.52, 3.38),
    ("La Paz", -16.49, -68.12),
    ("Lima", -12.05, -77.04),
    ("Lisbon", 38.72, -9.14),
    ("Ljubljana", 46.06, 14.51),
    ("London", 51.51, -0.13),
    ("Los Angeles", 34.05, -118.24),
    ("Luanda", -8.84, 13.23),
    ("Lusaka", -15.39, 28.32),
    ("Madrid", 40.42, -3.7),
    ("Manchester", 53.48, -2.24),
    ("Manila", 14.6, 120.98),
    ("Maputo", -25.97, 32.58),
    ("Marseille", 43.3, 5.37),
    ("Melbourne", -37.81, 144.96),
    ("Mexico City", 19.43, -99.13),
    ("Miami", 25.76, -80.19),
    ("Milan", 45.46, 9.19),
    ("Minneapolis", 44.98, -93.27),
    ("Montevideo", -34.9, -56.19),
    ("Montréal", 45.5, -73.57),
    ("Moscow", 55.76, 37.62),
    ("Mumbai", 19.08, 72.88),
    ("Munich", 48.14, 11.58),
    ("Muscat", 23.59, 58.38),
    ("Nairobi", -1.29, 36.82),
    ("New York", 40.71, -74.01),
    ("Nouméa", -22.26, 166.45),
    ("Novosibirsk", 55.03, 82.92),
    ("Osaka", 34.69, 135.5),
    ("Oslo", 59.91, 10.75),
    ("Palermo", 38.12, 13.36),
    ("Panama City", 8.98, -79.52),
    ("Paris", 48.86, 2.35),
    ("Perth", -31.95, 115.86),
    ("Phnom Penh", 11.56, 104.92),
    ("Phoenix", 33.45, -112.07),
    ("Porto Alegre", -30.03, -51.22),
    ("Prague", 50.08, 14.44),
    ("Quito", -0.18, -78.47),
    ("Reykjavík", 64.15, -21.94),
    ("Riga", 56.95, 24.11),
    ("Rio de Janeiro", -22.91, -43.17),
    ("Riyadh", 24.71, 46.68),
    ("Rome", 41.9, 12.5),
    ("San Francisco", 37.77, -122.42),
    ("San José", 9.93, -84.08),
    ("San Juan", 18.47, -66.11),
    ("Santiago", -33.45, -70.67),
    ("Santo Domingo", 18.49, -69.93),
    ("São Paulo", -23.55, -46.63),
    ("Seattle", 47.61, -122.33),
    ("Seoul", 37.57, 126.98),
    ("Shanghai", 31.23, 121.47),
    ("Singapore", 1.35, 103.82),
    ("Sofia", 42.7, 23.32),
    ("Stockholm", 59.33, 18.07),
    ("Suva", -18.14, 178.44),
    ("Sydney", -33.87, 151.21),
    ("Taipei", 25.03, 121.57),
    ("Tallinn", 59.44, 24.75),
    ("Tashkent", 41.3, 69.24),
    ("Tbilisi", 41.72, 44.79),
    ("Tel Aviv", 32.08, 34.78),
    ("Tokyo", 35.68, 139.69),
    ("Toronto", 43.65, -79.38),
    ("Tunis", 36.81, 10.18),
    ("Ulaanbaatar", 47.89, 106.91),
    ("Vancouver", 49.28, -123.12),
    ("Vienna", 48.21, 16.37),
    ("Vilnius", 54.69, 25.28),
    ("Warsaw", 52.23, 21.01),
    ("Washington", 38.91, -77.04),
    ("Yangon", 16.84, 96.17),
    ("Zagreb", 45.81, 15.98),
    ("Zürich", 47.38, 8.54),
];

/// The cities as a network.
pub fn network() -> Network {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut exponential = |mean: f64| -mean * (1.0 - (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64).ln();
    let access_ms: Vec<f64> = CITIES.iter().map(|_| ACCESS_LEAST_MS + exponential(ACCESS_MORE_MEAN_MS)).collect();
    let places: Vec<(f64, f64)> = CITIES.iter().map(|(_, latitude, longitude)| (*latitude, *longitude)).collect();
    let trip = |one: usize, other: usize| {
        let fibre_ms = great_circle_km(places[one], places[other]) / KM_PER_MS;
        let detour_ms = exponential(DETOUR_MEAN_MS * fibre_ms.sqrt());
        let round_trip_ms = fibre_ms * INFLATION_LEAST + detour_ms + access_ms[one] + access_ms[other];
        Some(Trip { jitter: JITTER, ..Trip::of(Span::from_millis_f64(round_trip_ms)) })
    };
    Network::new(CITIES.len(), trip).with_coordinates(&places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_cities_are_on_the_globe_once_each_and_as_far_apart_as_cities_are() {
        let names: BTreeSet<&str> = CITIES.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names.len(), CITIES.len());
        assert!(CITIES.iter().all(|(_, latitude, longitude)| latitude.abs() < 70.0 && longitude.abs() <= 180.0));
        let at = |name: &str| CITIES.iter().position(|(city, ..)| *city == name).expect("a city");
        let network = network();
        let kilometres = |one, other| network.distance_km(at(one), at(other)).expect("known");
        for (one, other, km) in
            [("London", "Paris", 344.0), ("Sydney", "Santiago", 11_340.0), ("Tokyo", "New York", 10_850.0)]
        {
            assert!((kilometres(one, other) / km - 1.0).abs() < 0.01, "{one} to {other}: {}", kilometres(one, other));
        }
        let mut trips: Vec<f64> = (0..CITIES.len())
            .flat_map(|one| (0..one).map(move |other| (one, other)))
            .filter_map(|(one, other)| Some(network.trip(one, other)?.round_trip.as_millis_f64()))
            .collect();
        trips.sort_by(f64::total_cmp);
        let median = trips[trips.len() / 2];
        assert!((120.0..190.0).contains(&median), "{median}");
    }
}
