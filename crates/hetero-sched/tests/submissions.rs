//! Submissions of random plans: complete, in order, waiting for all that they need and for nothing else.

mod common;

use std::collections::HashMap;
use std::sync::Arc;

use hetero_conformance::ReferenceBackend;
use hetero_core::{Claim, NodeId, Part, ValueId, ValueKind};
use hetero_sched::activations::Activations;
use hetero_sched::submissions::submissions_within;
use hetero_sched::{PartId, PlacedPart, Plan, Submission, submissions};

/// The placed part that an id names.
fn placed(plan: &Plan, id: PartId) -> &PlacedPart {
    &plan.placements()[id.node.0][id.part_idx]
}

/// For each submission, what it does with each tensor.
fn claims(plan: &Plan, list: &[Submission]) -> Vec<HashMap<usize, Claim>> {
    let graph = plan.graph();
    let backend = ReferenceBackend::new();
    let activations = Activations::allocate(graph, &backend).expect("memory");
    // Each state has a tensor of its own, whose number is no address.
    let tensor_number = |value: ValueId| match graph.value(value).kind {
        ValueKind::State => value.0,
        _ => activations.tensor_number(value),
    };
    let of_submission = |submission: &Submission| {
        let mut claims: HashMap<usize, Claim> = HashMap::new();
        for &id in &submission.parts {
            let (node, part) = (graph.node(id.node), &placed(plan, id).part);
            for (input_idx, &input) in node.inputs.iter().enumerate() {
                let claim = claims.entry(tensor_number(input)).or_default();
                claim.add_read(graph.input_part(id.node, input_idx, part));
            }
            claims.entry(tensor_number(node.output)).or_default().add_write(part.clone());
        }
        claims
    };
    list.iter().map(of_submission).collect()
}

/// For each submission, which others have finished when it starts: by dependence or by the order of its device.
fn finished_before(list: &[Submission]) -> Vec<Vec<bool>> {
    let mut before: Vec<Vec<bool>> = Vec::new();
    for (idx, submission) in list.iter().enumerate() {
        let mut finished = vec![false; list.len()];
        let previous = (0..idx).rev().find(|&other| list[other].device_idx == submission.device_idx);
        for &other in submission.depends_on.iter().chain(&previous) {
            assert!(other < idx, "submission {idx} depends on a later one");
            finished[other] = true;
            finished.iter_mut().zip(&before[other]).for_each(|(finished, before)| *finished |= before);
        }
        before.push(finished);
    }
    before
}

fn check(plan: &Plan) -> Vec<Submission> {
    let graph = plan.graph();
    let list = submissions(plan);
    let before = finished_before(&list);

    let mut parts: Vec<(PartId, usize)> = Vec::new();
    for (idx, submission) in list.iter().enumerate() {
        assert!(!submission.parts.is_empty());
        assert!(submission.parts.is_sorted_by_key(|part| part.node));
        for &part in &submission.parts {
            assert_eq!(placed(plan, part).device_idx, submission.device_idx);
            parts.push((part, idx));
        }
        for (i, &other) in submission.depends_on.iter().enumerate() {
            assert_ne!(list[other].device_idx, submission.device_idx);
            let others = submission.depends_on.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, other)| *other);
            let previous = (0..idx).rev().find(|&other| list[other].device_idx == submission.device_idx);
            let implied = others.chain(previous).any(|by| by == other || before[by][other]);
            assert!(!implied, "submission {idx} need not wait for {other}");
        }
    }
    parts.sort_by_key(|(part, _)| (part.node, part.part_idx));
    assert_eq!(parts.len(), plan.placements().iter().map(Vec::len).sum::<usize>());
    assert!(parts.windows(2).all(|pair| pair[0].0 != pair[1].0), "each part is submitted once");
    // Devices run their parts in the graph's order.
    for device_idx in 0..3 {
        let of_device = list.iter().filter(|submission| submission.device_idx == device_idx);
        assert!(of_device.flat_map(|submission| &submission.parts).is_sorted_by_key(|part| part.node));
    }

    // What is read was written: in the same submission, or in one that has finished.
    for &(reader, idx) in &parts {
        let node = graph.node(reader.node);
        for (input_idx, &input) in node.inputs.iter().enumerate() {
            let read = graph.input_part(reader.node, input_idx, &placed(plan, reader).part);
            let writers = parts.iter().filter(|(part, _)| part.node < reader.node);
            for &(writer, writer_idx) in writers.filter(|(part, _)| graph.node(part.node).output == input) {
                let needs = placed(plan, writer).part.overlaps(&read);
                assert!(
                    !needs || writer_idx == idx || before[idx][writer_idx],
                    "{reader:?} does not wait for {writer:?}"
                );
            }
        }
    }

    // What nothing orders touches different elements, whatever was in a tensor before.
    let claims = claims(plan, &list);
    for (idx, claims_of) in claims.iter().enumerate() {
        for other in (0..idx).filter(|&other| !before[idx][other]) {
            for (tensor, claim) in claims_of {
                let conflict = claims[other].get(tensor).is_some_and(|other| other.conflicts_with(claim));
                assert!(!conflict, "submissions {other} and {idx} touch the same elements");
            }
        }
    }
    list
}

#[test]
fn random_plans_of_random_graphs() {
    let mut n_shared = 0;
    for seed in 0..2000 {
        let model = common::any_model(seed, 6);
        let plan = common::any_plan(&model.graph, 1 + seed % 3, seed);
        let list = check(&plan);
        n_shared += usize::from(list.len() < plan.placements().iter().map(Vec::len).sum::<usize>());
    }
    assert!(n_shared > 1000, "most plans have neighbours that share a submission: {n_shared}");
    for seed in 0..100 {
        check(&common::any_plan(&common::decoder(6).graph, 2 + seed % 2, seed));
    }
}

#[test]
fn one_device_is_one_submission() {
    let model = common::decoder(6);
    let list = check(&Plan::single_device(Arc::clone(&model.graph), 0));
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].parts.len(), model.graph.nodes().len());
}

#[test]
fn no_submission_has_more_weights_than_its_device_takes() {
    let model = common::decoder(6);
    let graph = &model.graph;
    let plan = Plan::single_device(Arc::clone(graph), 0);
    let bytes_of = |submission: &Submission| -> u64 {
        let nodes = submission.parts.iter().map(|part| graph.node(part.node));
        let weights = nodes.flat_map(|node| &node.weights);
        weights.map(|weight| graph.weights()[weight.0].layout.bytes() as u64).sum()
    };
    let whole = bytes_of(&submissions(&plan)[0]);
    let largest = graph.weights().iter().map(|weight| weight.layout.bytes() as u64).max().expect("weights");
    for limit in [whole, whole / 2, whole / 3, largest] {
        assert!(limit >= largest, "the case is meant to be possible");
        let list = submissions_within(&plan, &[Some(limit)]);
        assert!(list.iter().all(|submission| bytes_of(submission) <= limit), "{limit} of {whole}");
        assert_eq!(list.len() > 1, limit < whole);
        assert!(list.iter().all(|submission| submission.depends_on.is_empty()), "one device needs no waits");
        let parts: Vec<PartId> = list.iter().flat_map(|submission| submission.parts.clone()).collect();
        assert_eq!(parts, submissions(&plan)[0].parts);
    }
    // What is too large by itself is not lost; its device says so when it compiles.
    let list = submissions_within(&plan, &[Some(1)]);
    assert_eq!(list.iter().map(|submission| submission.parts.len()).sum::<usize>(), graph.nodes().len());
}

/// Gate, up and swiglu cut at the same columns are one submission on each device, with no join between them.
#[test]
fn equal_cuts_share_a_submission() {
    let model = common::decoder(6);
    let graph = &model.graph;
    let names = ["gate", "up", "swiglu"];
    let mut placements = Plan::single_device(Arc::clone(graph), 0).placements().to_vec();
    for (idx, placed) in placements.iter_mut().enumerate() {
        if names.contains(&graph.node(NodeId(idx)).name) {
            let part = |columns| Part { rows: 0..6, columns };
            *placed = vec![PlacedPart::new(0, part(0..32)), PlacedPart::new(1, part(32..64))];
        }
    }
    let plan = Plan::new(Arc::clone(graph), placements).expect("a cover");
    let list = check(&plan);
    let named = |submission: &Submission| -> Vec<&str> {
        submission.parts.iter().map(|part| graph.node(part.node).name).collect()
    };
    let on_second: Vec<Vec<&str>> = list.iter().filter(|s| s.device_idx == 1).map(named).collect();
    assert_eq!(on_second, vec![names.to_vec(); 2]);
    let on_first: Vec<Vec<&str>> = list.iter().filter(|s| s.device_idx == 0).map(named).collect();
    assert_eq!(on_first.len(), 5, "up to the norm, twice gate to swiglu, twice down and what follows: {on_first:?}");
    assert_eq!(on_first[1], names);
    assert_eq!(on_first[2][0], "down");
    // The first device waits for the second before `down` only.
    let waits: Vec<usize> =
        list.iter().filter(|s| s.device_idx == 0).map(|submission| submission.depends_on.len()).collect();
    assert_eq!(waits, [0, 0, 1, 0, 1]);
}

/// The readers of a cache wait for its writers, and a writer that comes after them waits for the readers.
#[test]
fn state_is_written_after_it_was_read() {
    let mut b = common::Blocks::new(2);
    let x = b.input();
    let (first, second, cache) = (b.half(x), b.half(x), b.cache());
    b.cache_write(first, cache);
    let attended = b.attend(x, cache, cache);
    b.cache_write(second, cache);
    b.builder.output(attended);
    let graph = Arc::new(b.builder.finish());
    let device_of = [0, 0, 0, 1, 0];
    let placements = graph.nodes().iter().zip(device_of).map(|(node, device_idx)| {
        let desc = graph.tensor_desc(node.output);
        vec![PlacedPart::new(device_idx, Part::whole(desc.rows, desc.columns))]
    });
    let plan = Plan::new(Arc::clone(&graph), placements.collect()).expect("a cover");
    let list = check(&plan);
    let nodes = |submission: &Submission| submission.parts.iter().map(|part| part.node.0).collect::<Vec<_>>();
    let found: Vec<(usize, Vec<usize>, &[usize])> =
        list.iter().map(|submission| (submission.device_idx, nodes(submission), &submission.depends_on[..])).collect();
    assert_eq!(found, [(0, vec![0, 1, 2], &[][..]), (1, vec![3], &[0]), (0, vec![4], &[1])]);
}
