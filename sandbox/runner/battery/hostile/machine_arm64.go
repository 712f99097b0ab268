package main

func machine() []probe { return nil }

func lastOfMachine() []probe { return nil }
