from utils.runtime import flag_values


def first(*, seed, scale):
    return seed, scale


def second(*, scale, share):
    return scale, share


def test_a_flag_that_several_functions_read_is_named_once():
    assert flag_values.flag_names((first, second)) == ("seed", "scale", "share")


def test_a_function_gets_the_flags_that_it_names():
    values = {"seed": 1, "scale": 2.0, "share": 0.5}
    assert second(**flag_values.arguments(second, values)) == (2.0, 0.5)
