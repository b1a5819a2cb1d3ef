use super::*;

/// x of six nodes, in milliseconds: years apart, as clocks that count from boot are.
const CLOCKS_MS: [i64; 6] = [0, 7, -31_536_000_000, 123_456, 94_608_000_000, -5];

fn edge(from: u16, to: u16, offset_us: i64, round_trip_ms: i64) -> MeshEdge {
    MeshEdge {
        from,
        to,
        offset: Span::from_micros(offset_us),
        round_trip: Span::from_millis(round_trip_ms),
        error: Span::ZERO,
    }
}

/// Every pair of `nodes` nodes, all clocks true, round trips of 20 ms to 140 ms, asymmetries of up to 2 %.
fn full(nodes: u16) -> Vec<MeshEdge> {
    let mut edges = Vec::new();
    for from in 0..nodes {
        for to in from + 1..nodes {
            let mixed = i64::from(from) * 7_919 + i64::from(to) * 104_729;
            let round_trip_ms = 20 + mixed % 121;
            edges.push(edge(from, to, (mixed % 41 - 20) * round_trip_ms, round_trip_ms));
        }
    }
    edges
}

fn solved(nodes: usize, edges: &[MeshEdge]) -> Solution {
    solve(&Problem { nodes, reference: 0, edges })
}

fn offset_us(solution: &Solution, node: usize) -> f64 {
    solution.offsets[node].expect("a path leads there").as_micros_f64()
}

#[test]
fn a_single_path_is_taken_as_it_is() {
    let solution = solved(2, &[edge(0, 1, 1_234, 10)]);
    assert_eq!(solution.offsets, [Some(Span::ZERO), Some(Span::from_micros(1_234))]);
    assert_eq!(solution.expected_errors[0], Some(Span::ZERO));
    // 5 % of 10 ms.
    assert!((solution.expected_errors[1].unwrap().as_micros_f64() - 500.0).abs() < 1.0);
    assert!(solution.left_out.is_empty() && solution.suspects.is_empty());
}

#[test]
fn the_sign_follows_the_direction() {
    let solution = solved(2, &[edge(1, 0, 1_234, 10)]);
    assert_eq!(solution.offsets[1], Some(Span::from_micros(-1_234)));
}

#[test]
fn a_triangle_shares_its_misclosure_by_weight() {
    // 0 → 1 → 2 says 200 µs, 0 → 2 says 500: 300 to share. Variances are as 1 : 1 : 4, and so are the shares.
    let solution = solved(3, &[edge(0, 1, 100, 10), edge(1, 2, 100, 10), edge(0, 2, 500, 20)]);
    assert!((offset_us(&solution, 1) - 150.0).abs() < 0.1, "{solution:?}");
    assert!((offset_us(&solution, 2) - 300.0).abs() < 0.1, "{solution:?}");
    // Resistances 4 parallel to 2, times (500 µs)²: the bound is exact here.
    let expected_us = solution.expected_errors[2].unwrap().as_micros_f64();
    assert!((expected_us - 500.0 * (4.0f64 / 3.0).sqrt()).abs() < 1.0, "{expected_us}");
}

#[test]
fn an_even_full_mesh_has_the_error_of_its_formula() {
    let nodes = 10u16;
    let edges: Vec<MeshEdge> = full(nodes).into_iter().map(|e| edge(e.from, e.to, 0, 100)).collect();
    let solution = solved(usize::from(nodes), &edges);
    for node in 1..usize::from(nodes) {
        // 2/n and (n − 1)/n² of one path's variance, (5 ms)².
        let expected_us = solution.expected_errors[node].unwrap().as_micros_f64();
        assert!((expected_us - 5_000.0 * 0.2f64.sqrt()).abs() < 1.0, "{expected_us}");
        let mutual_us = solution.mutual_errors[node].unwrap().as_micros_f64();
        assert!((mutual_us - 5_000.0 * 0.09f64.sqrt()).abs() < 1.0, "{mutual_us}");
    }
}

#[test]
fn consistent_clocks_years_apart_come_out_to_the_nanosecond() {
    let mut edges = full(6);
    for edge in &mut edges {
        edge.offset = Span::from_millis(CLOCKS_MS[usize::from(edge.to)] - CLOCKS_MS[usize::from(edge.from)]);
    }
    let solution = solved(6, &edges);
    assert_eq!(solution.offsets, CLOCKS_MS.map(|ms| Some(Span::from_millis(ms))));
    assert!(solution.left_out.is_empty());
    assert_eq!(solution.scale, 1.0);
}

#[test]
fn what_the_clocks_read_changes_nothing_but_the_offsets() {
    let true_clocks = solved(6, &full(6));
    let mut edges = full(6);
    for edge in &mut edges {
        edge.offset += Span::from_millis(CLOCKS_MS[usize::from(edge.to)] - CLOCKS_MS[usize::from(edge.from)]);
    }
    let far_clocks = solved(6, &edges);
    for (node, ms) in CLOCKS_MS.into_iter().enumerate() {
        let moved = far_clocks.offsets[node].unwrap() - true_clocks.offsets[node].unwrap() - Span::from_millis(ms);
        assert!(moved.abs() <= Span::from_nanos(20), "node {node}: {moved:?}");
    }
}

#[test]
fn twice_the_world_is_twice_the_solution() {
    let single = solved(12, &full(12));
    let double: Vec<MeshEdge> = full(12)
        .into_iter()
        .map(|edge| MeshEdge {
            offset: edge.offset + edge.offset,
            round_trip: edge.round_trip + edge.round_trip,
            ..edge
        })
        .collect();
    let double = solved(12, &double);
    for node in 0..12 {
        let (single, double) = (offset_us(&single, node), offset_us(&double, node));
        assert!((2.0 * single - double).abs() < 0.1, "node {node}: {single} {double}");
    }
}

#[test]
fn the_order_of_edges_does_not_matter() {
    let mut edges = full(20);
    edges[17].offset += Span::from_millis(40);
    let forward = solved(20, &edges);
    edges.reverse();
    let backward = solved(20, &edges);
    assert_eq!(forward.offsets, backward.offsets);
    assert_eq!(forward.expected_errors, backward.expected_errors);
    assert_eq!(forward.mutual_errors, backward.mutual_errors);
}

#[test]
fn both_ends_reports_of_one_path_count_once() {
    let once = solved(3, &[edge(0, 1, 100, 10), edge(1, 2, 100, 10), edge(0, 2, 500, 20)]);
    let twice = [edge(0, 1, 100, 10), edge(1, 0, -100, 10), edge(1, 2, 100, 10), edge(0, 2, 500, 20)];
    let twice = solved(3, &twice);
    assert_eq!(once.offsets, twice.offsets);
    assert_eq!(once.expected_errors, twice.expected_errors);
}

#[test]
fn ends_that_disagree_weigh_less() {
    let agree = solved(2, &[edge(0, 1, 100, 10), edge(1, 0, -100, 10)]);
    let disagree = solved(2, &[edge(0, 1, 0, 10), edge(1, 0, -40_000, 10)]);
    assert!(disagree.expected_errors[1] > agree.expected_errors[1]);
    assert!(disagree.expected_errors[1].unwrap() >= Span::from_millis(20));
}

#[test]
fn nodes_without_a_way_to_the_reference_have_no_clock() {
    let solution = solved(5, &[edge(0, 1, 100, 10), edge(2, 3, 100, 10)]);
    assert!(solution.offsets[1].is_some());
    assert_eq!(&solution.offsets[2..], [None; 3]);
    assert_eq!(&solution.expected_errors[2..], [None; 3]);
    assert_eq!(&solution.mutual_errors[2..], [None; 3]);
    assert_eq!(solution.left_out, [LeftOut { edge: 1, reason: Reason::Unconnected, residual: Span::ZERO }]);
}

#[test]
fn invalid_edges_and_problems_are_refused() {
    let negative = MeshEdge { error: Span::from_nanos(-1), ..edge(0, 1, 5, 10) };
    let wrong = [edge(0, 1, 5, 10), edge(1, 1, 5, 10), edge(0, 9, 5, 10), edge(0, 1, 5, -10), negative];
    let solution = solved(2, &wrong);
    assert_eq!(offset_us(&solution, 1), 5.0);
    let reasons: Vec<_> = solution.left_out.iter().map(|left_out| (left_out.edge, left_out.reason)).collect();
    assert_eq!(reasons, [1, 2, 3, 4].map(|edge| (edge, Reason::Invalid)));

    assert_eq!(solved(0, &[]).offsets, []);
    assert_eq!(solve(&Problem { nodes: 2, reference: 7, edges: &wrong }).offsets, [None; 2]);
    let far = MeshEdge { offset: Span::MIN, round_trip: Span::MAX, error: Span::MAX, ..wrong[0] };
    let chain = solved(3, &[far, MeshEdge { from: 1, to: 2, ..far }]);
    assert_eq!(chain.offsets[2], Some(Span::MIN), "saturates");
}

#[test]
fn a_false_path_is_left_out_and_named() {
    let mut edges = full(12);
    let honest = solved(12, &edges);
    let most = edges[30].round_trip.half();
    edges[30].offset += most;
    let solution = solved(12, &edges);
    assert_eq!(solution.left_out.len(), 1);
    assert_eq!((solution.left_out[0].edge, solution.left_out[0].reason), (30, Reason::Outlying));
    assert!(solution.left_out[0].residual > Span::from_millis(5));
    for node in 0..12 {
        let moved = (offset_us(&solution, node) - offset_us(&honest, node)).abs();
        assert!(moved < 200.0, "node {node} moved by {moved} us");
    }
}

#[test]
fn a_liar_is_suspected_and_moves_nobody() {
    for claimed in [None, Some(Span::ZERO)] {
        let mut edges = full(12);
        let others: Vec<MeshEdge> = edges.iter().filter(|edge| edge.from != 5 && edge.to != 5).copied().collect();
        for (index, edge) in edges.iter_mut().enumerate().filter(|(_, edge)| edge.from == 5 || edge.to == 5) {
            edge.offset += Span::from_millis([-50, 35, -20, 48][index % 4]);
            edge.round_trip = claimed.unwrap_or(edge.round_trip);
        }
        let (absent, lying) = (solved(12, &others), solved(12, &edges));
        assert_eq!(lying.suspects, [5]);
        assert_eq!(lying.left_out.iter().filter(|left_out| left_out.reason == Reason::Suspect).count(), 11);
        for node in (0..12).filter(|node| *node != 5) {
            assert!((offset_us(&absent, node) - offset_us(&lying, node)).abs() < 0.1, "node {node}");
        }
        assert!(lying.expected_errors[5] > lying.expected_errors[4], "{:?}", lying);
    }
}

#[test]
fn the_same_lie_to_all_is_only_the_liars_own_clock() {
    let mut edges = full(12);
    let honest = solved(12, &edges);
    for edge in &mut edges {
        let (ahead, behind) =
            (Span::from_millis(50 * i64::from(edge.to == 5)), Span::from_millis(50 * i64::from(edge.from == 5)));
        edge.offset = edge.offset + ahead - behind;
    }
    let solution = solved(12, &edges);
    assert!(solution.suspects.is_empty() && solution.left_out.is_empty());
    for node in 0..12 {
        let moved = offset_us(&solution, node) - offset_us(&honest, node);
        let expected = if node == 5 { 50_000.0 } else { 0.0 };
        assert!((moved - expected).abs() < 0.1, "node {node} moved by {moved} us");
    }
}

#[test]
fn a_node_behind_a_suspect_keeps_a_clock() {
    let mut edges = full(12);
    for (index, edge) in edges.iter_mut().enumerate().filter(|(_, edge)| edge.from == 5 || edge.to == 5) {
        edge.offset += Span::from_millis([-50, 35, -20, 48][index % 4]);
    }
    edges.push(edge(5, 12, 100, 10));
    let solution = solved(13, &edges);
    assert_eq!(solution.suspects, [5]);
    assert!((offset_us(&solution, 12) - offset_us(&solution, 5) - 100.0).abs() < 0.1);
    assert!(solution.expected_errors[12] > solution.expected_errors[5]);
}

#[test]
fn clusters_of_near_hosts_are_solved_to_100_ns() {
    // 16 cities of 4 hosts, 200 µs within and 100 ms between: weights differ by a factor of 250,000.
    let (hosts, mut edges) = (64u16, Vec::new());
    for from in 0..hosts {
        for to in from + 1..hosts {
            let near = from / 4 == to / 4;
            let mixed = (i64::from(from) * 7_919 + i64::from(to) * 104_729) % 201 - 100;
            let round_trip = if near { Span::from_micros(200) } else { Span::from_millis(100) };
            let offset = Span::from_nanos(mixed * round_trip.as_nanos() / 2_000);
            edges.push(MeshEdge { from, to, offset, round_trip, error: Span::ZERO });
        }
    }
    let solution = solved(usize::from(hosts), &edges);
    // At the least squares no node is pulled to any side; no residual here is large enough to lose weight.
    assert!(solution.left_out.is_empty());
    for node in 1..hosts {
        let (mut pull, mut weight) = (0.0, 0.0);
        for edge in edges.iter().filter(|edge| edge.from == node || edge.to == node) {
            let sign = if edge.to == node { 1.0 } else { -1.0 };
            let solved = offset_us(&solution, usize::from(edge.to)) - offset_us(&solution, usize::from(edge.from));
            let w = 1.0 / edge.round_trip.as_micros_f64().powi(2);
            pull += sign * w * (edge.offset.as_micros_f64() - solved);
            weight += w;
        }
        assert!((pull / weight).abs() < 0.1, "node {node} is pulled by {} us", pull / weight);
    }
}

#[test]
fn the_largest_mesh_is_solved_and_more_is_not_taken() {
    // 64 masters that all know, and 1,024 agents with 64 neighbours each, on a ring with strides.
    let mut edges = Vec::new();
    for agent in 64..MAX_NODES as u16 {
        edges.extend((0..64).map(|master| edge(master, agent, i64::from(agent % 7) - 3, 30 + i64::from(master))));
        edges.extend((1..=32u16).map(|stride| {
            edge(agent, 64 + (agent - 64 + stride * stride) % 1_024, i64::from(stride % 5) - 2, 20 + i64::from(stride))
        }));
    }
    let solution = solved(MAX_NODES + 1, &edges);
    assert!(solution.offsets[64..MAX_NODES].iter().all(Option::is_some));
    assert_eq!(solution.offsets.len(), MAX_NODES + 1);
    assert_eq!(solution.offsets[MAX_NODES], None);
    assert!(solution.offsets.iter().flatten().all(|offset| offset.abs() < Span::from_micros(10)));

    let many = vec![edge(0, 1, 0, 10); MAX_EDGES + 1];
    let left_out = solved(2, &many).left_out;
    assert_eq!(left_out, [LeftOut { edge: MAX_EDGES, reason: Reason::Invalid, residual: Span::ZERO }]);
}
