import core


def test_import_core_loads_no_jax(run_python):
    program = "import core, core.spec, core.store, core.datasets, core.records, core.shapes, core.figures, sys; print('jax' in sys.modules)"
    assert run_python(program) == "False\n"


def test_every_public_name_is_there_whatever_was_imported_before():
    for name in core.__all__:
        assert getattr(core, name) is not None
    assert callable(core.hypergradient)
    assert callable(core.reversible)
