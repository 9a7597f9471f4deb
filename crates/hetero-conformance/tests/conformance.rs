//! The suite passes on the backend that is the oracle.

use hetero_conformance::{Expectations, ReferenceBackend, run};

#[test]
fn the_reference_backend_conforms() {
    let report = run(&ReferenceBackend::new(), &Expectations::new().requires("/"));
    report.assert_passed();
    assert_eq!(report.n_unsupported(), 0);
    // The oracle is compared with itself.
    assert!(report.results.iter().all(|result| result.error.unwrap_or(0.0) == 0.0));
}
