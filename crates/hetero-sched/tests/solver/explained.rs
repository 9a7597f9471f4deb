//! Explanations of plans.

use hetero_core::StepParams;
use hetero_sched::cost::DeviceSet;
use hetero_sched::explain::explain;
use hetero_sched::{SolveOptions, solve};

use crate::models::{LLAMA_8B, Sizes, llama};
use crate::phone::Parametric;

#[test]
fn every_operator_says_what_the_others_would_have_cost() {
    let graph = llama(&Sizes { layers: 4, ..LLAMA_8B }, 256);
    let costs = Parametric::phone(2);
    let options = SolveOptions::new(DeviceSet::first(2));
    let step = StepParams { rows: 256, past: 0 };
    let solution = solve(&graph, &costs, step, &options).unwrap();
    let explanation = explain(&graph, &costs, step, &options, &solution);

    let names: Vec<&str> = explanation.operators.iter().map(|operator| operator.name.as_str()).collect();
    assert_eq!(names.len(), 1 + 17 + 3);
    assert_eq!((names[0], names[1], names[20]), ("embed", "attention_norm", "output_head"));
    let gate = explanation.operators.iter().find(|operator| operator.name == "ffn_gate").unwrap();
    assert_eq!(gate.n_layers, 4);
    // Both devices alone are among the alternatives, and both are slower.
    for device in ["gpu", "npu"] {
        let alone = |parts: &[hetero_sched::explain::ExplainedPart]| parts.len() == 1 && parts[0].device == device;
        let other = gate.alternatives.iter().find(|other| alone(&other.parts)).unwrap();
        assert!(other.step_seconds > explanation.seconds, "{device} alone: {other:?}");
    }
    // What is not among the alternatives cannot be shown to be worse; what is, hardly ever is better.
    for operator in &explanation.operators {
        for other in &operator.alternatives {
            assert!(other.step_seconds > explanation.seconds * 0.98, "{}: {other:?}", operator.name);
        }
    }
    let text = explanation.to_string();
    assert!(text.contains("ffn_down (linear w4g32 14336->4096 (f32) -> f32), 4 layers"), "{text}");
    assert!(text.contains("a step"), "{text}");
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["operators"][20]["name"], "output_head");
}
