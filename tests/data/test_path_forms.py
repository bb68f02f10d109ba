from utils.data import path_forms


def test_forms_of_a_path():
    assert path_forms.plain("a\\e\u0301.png") == "a/\u00e9.png"
    assert path_forms.is_absolute("C:/a")
    assert path_forms.is_absolute("/a")
    assert not path_forms.is_absolute("c/a")
    assert path_forms.parts("/a/./b//c") == ("/", "a", "b", "c")
    assert path_forms.without_suffix("a.b.PNG") == "a.b"
    assert path_forms.without_suffix("v1.5") == "v1.5"
