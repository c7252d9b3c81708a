build_uroot() { :; }
